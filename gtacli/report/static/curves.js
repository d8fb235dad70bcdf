// Training curves, one command after the other. Each metric has a chart: thin lines for runs and a
// thick one for the mean over seeds.

function curves() {
  const section = document.getElementById("curves");
  if (!data.curves.length) return;
  section.hidden = false;
  data.commands.forEach((title, command) => {
    const own = data.curves.filter((curve) => curve.command === command);
    if (!own.length) return;
    if (data.commands.length > 1) section.append(make("h3", {}, title));
    const keys = make("div", { className: "legend" });
    const plots = make("div", { className: "plots" });
    section.append(keys, plots);
    const charts = own.map((curve) => chart(plots, curve));
    legend(keys, charts, command);
    onTheme.push(() => charts.forEach((c) => c.plot.redraw(false)));
  });
}

function legend(place, charts, command) {
  data.groups.forEach((group, g) => {
    if (group.command !== command) return;
    const button = make("button", { type: "button" }, swatch(g), group.label);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const show = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(show));
      for (const { plot, series } of charts) {
        series.forEach((s, i) => s.group === g && plot.setSeries(i + 1, { show }));
      }
    });
    place.append(button);
  });
}

/** Return the series of a chart: each group's runs and, for several runs, their mean. */
function makeSeries(curve) {
  const series = [];
  data.groups.forEach((group, g) => {
    const runs = group.runs.filter((run) => curve.runs[run]);
    const many = runs.length > 1;
    for (const run of runs) {
      series.push({ group: g, values: curve.runs[run], thin: many });
    }
    if (many) series.push({ group: g, values: means(runs.map((run) => curve.runs[run])), mean: true });
  });
  return series;
}

function means(lists) {
  return lists[0].map((_, i) => {
    const values = lists.map((list) => list[i]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  });
}

function chart(place, curve) {
  const series = makeSeries(curve);
  const box = make("div", { className: "plot" });
  const tip = make("div", { className: "tip", hidden: true });
  const unit = curve.percent ? make("span", { className: "faint" }, " %") : null;
  place.append(make("figure", {}, make("figcaption", {}, curve.title, unit), box));
  const axis = {
    stroke: () => color("faint"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => color("line"), width: 1 },
    ticks: { show: false },
  };
  const options = {
    width: box.clientWidth,
    height: 190,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    scales: { x: { time: false } },
    cursor: { sync: { key: "epochs" + curve.command }, y: false, drag: { x: false, y: false } },
    axes: [
      { ...axis, size: 24, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], grid: { show: false } },
      { ...axis, size: 46, values: (_, ticks) => ticks.map(short) },
    ],
    series: [
      {},
      ...series.map((s) => ({
        stroke: () => color("c" + data.groups[s.group].color),
        width: s.thin ? 1 : 2,
        alpha: s.thin ? 0.4 : 1,
        points: { show: curve.sparse || curve.epochs.length < 2, size: 4 },
        spanGaps: curve.sparse,
      })),
    ],
    hooks: { setCursor: [(plot) => showTip(plot, tip, curve)] },
  };
  const plot = new uPlot(options, [curve.epochs, ...series.map((s) => s.values)], box);
  plot.over.append(tip);
  plot.over.addEventListener("mouseleave", () => (tip.hidden = true));
  new ResizeObserver(() => {
    if (box.clientWidth) plot.setSize({ width: box.clientWidth, height: options.height });
  }).observe(box);
  return { plot, series };
}

/** Show the runs' values at the epoch under the pointer. */
function showTip(plot, tip, curve) {
  const at = plot.cursor.idx;
  tip.hidden = at === null || at === undefined || !plot.over.matches(":hover");
  if (tip.hidden) return;
  const lines = data.groups.map((group, g) => {
    const values = group.runs.map((run) => curve.runs[run]?.[at] ?? null);
    const known = values.filter((value) => value !== null);
    if (!known.length) return null;
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    const each = known.length > 1 && known.length <= 5 ? known.map(short).join("  ") : "";
    return make(
      "div",
      { className: "values" },
      swatch(g),
      make("span", {}, group.label),
      make("b", {}, short(mean)),
      make("span", { className: "faint" }, each),
    );
  });
  tip.replaceChildren(make("div", { className: "faint" }, "epoch " + curve.epochs[at]));
  tip.append(...lines.filter((line) => line !== null));
  const { left } = plot.cursor;
  const fits = left + 12 + tip.offsetWidth <= plot.over.clientWidth;
  tip.style.left = (fits ? left + 12 : left - 12 - tip.offsetWidth) + "px";
}

curves();
