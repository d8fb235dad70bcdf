// Training curves, one kind of run after the other: a chart a figure, thin lines for runs, a strong one for the mean over seeds.

function curves() {
  const section = document.getElementById("curves");
  if (!data.curves.length) return;
  section.hidden = false;
  data.kinds.forEach((title, kind) => {
    const own = data.curves.filter((curve) => curve.kind === kind);
    if (!own.length) return;
    if (data.kinds.length > 1) section.append(make("h3", {}, title));
    const keys = make("div", { className: "legend" });
    const plots = make("div", { className: "plots" });
    section.append(keys, plots);
    const charts = own.map((curve) => chart(plots, curve));
    legend(keys, charts, kind);
    onTheme.push(() => charts.forEach((c) => c.plot.redraw(false)));
  });
}

function legend(place, charts, kind) {
  data.groups.forEach((group, g) => {
    if (group.kind !== kind) return;
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

/** Series of a curve: of each group its runs, and their mean where there are several. */
function seriesOf(curve) {
  const found = [];
  data.groups.forEach((group, g) => {
    const runs = group.runs.filter((run) => curve.runs[run]);
    const many = runs.length > 1;
    for (const run of runs) {
      found.push({ group: g, values: curve.runs[run], thin: many });
    }
    if (many) found.push({ group: g, values: means(runs.map((run) => curve.runs[run])), mean: true });
  });
  return found;
}

function means(lists) {
  return lists[0].map((_, i) => {
    const values = lists.map((list) => list[i]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  });
}

function chart(place, curve) {
  const series = seriesOf(curve);
  const box = make("div", { className: "plot" });
  const tip = make("div", { className: "tip", hidden: true });
  const unit = curve.percent ? make("span", { className: "faint" }, " %") : null;
  place.append(make("figure", {}, make("figcaption", {}, curve.title, unit), box));
  const axis = {
    stroke: () => colour("faint"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
  };
  const options = {
    width: box.clientWidth,
    height: 190,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    scales: { x: { time: false } },
    cursor: { sync: { key: "epochs" + curve.kind }, y: false, drag: { x: false, y: false } },
    axes: [
      { ...axis, size: 24, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], grid: { show: false } },
      { ...axis, size: 46, values: (_, ticks) => ticks.map(short) },
    ],
    series: [
      {},
      ...series.map((s) => ({
        stroke: () => colour("c" + (s.group % COLOURS)),
        width: s.thin ? 1 : 2,
        alpha: s.thin ? 0.4 : 1,
        points: { show: curve.sparse || curve.epochs.length < 2, size: 4 },
        spanGaps: curve.sparse,
      })),
    ],
    hooks: { setCursor: [(plot) => tell(plot, tip, curve)] },
  };
  const plot = new uPlot(options, [curve.epochs, ...series.map((s) => s.values)], box);
  plot.over.append(tip);
  plot.over.addEventListener("mouseleave", () => (tip.hidden = true));
  new ResizeObserver(() => {
    if (box.clientWidth) plot.setSize({ width: box.clientWidth, height: options.height });
  }).observe(box);
  return { plot, series };
}

/** What the runs had at the epoch under the pointer, beside it. */
function tell(plot, tip, curve) {
  const at = plot.cursor.idx;
  tip.hidden = at === null || at === undefined || !plot.over.matches(":hover");
  if (tip.hidden) return;
  const lines = data.groups.map((group, g) => {
    const values = group.runs.map((run) => curve.runs[run]?.[at] ?? null);
    const found = values.filter((value) => value !== null);
    if (!found.length) return null;
    const mean = found.reduce((a, b) => a + b, 0) / found.length;
    const each = found.length > 1 && found.length <= 5 ? found.map(short).join("  ") : "";
    return make(
      "div",
      { className: "of" },
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
