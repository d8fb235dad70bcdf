// Predictions on the test images, else on held-out ones: the confusion matrix of one run, or of all runs of a setting
// together, the pairs of classes that are confused most often, and the classes with the lowest accuracy.

const PAIRS = 12;
const NAMED = 50; // maximum number of classes for which the matrix names its rows and columns
const COUNTED = 25; // maximum number of classes for which each cell shows its count

function predictions() {
  if (!data.predictions) return;
  const section = document.getElementById("predictions");
  section.hidden = false;
  const select = section.querySelector(".whose");
  const choices = [...groupChoices(), ...data.predictions.runs.map((entry) => [label(entry), [entry]])];
  choices.forEach(([name], i) => select.append(make("option", { value: i }, name)));
  const lead = section.querySelector(".what");
  const matrix = new Matrix(section.querySelector(".matrix"));
  const show = () => {
    const [name, entries] = choices[select.value];
    const classes = data.predictions.classes[entries[0].classes];
    const counts = total(entries);
    lead.textContent = describe(name, entries, counts);
    matrix.show(classes, counts);
    pairs(section.querySelector(".pairs"), classes, counts);
    byClass(section.querySelector(".by-class"), classes, counts);
  };
  select.addEventListener("change", show);
  onTheme.push(() => matrix.paint());
  show();
}

function label(entry) {
  return data.runs[entry.run].label;
}

/** Return the settings with several tested runs that have the same classes. */
function groupChoices() {
  return data.groups
    .map((group) => [group.label, data.predictions.runs.filter((e) => group.runs.includes(e.run))])
    .filter(([, entries]) => entries.length > 1 && entries.every((e) => e.classes === entries[0].classes))
    .map(([name, entries]) => [`${name}, ${entries.length} runs`, entries]);
}

/** Return the sentence that says what is shown, and of which runs. */
function describe(name, entries, counts) {
  const images = counts.reduce((sum, [, , count]) => sum + count, 0);
  const kinds = [...new Set(entries.map((entry) => entry.images))].join(" and ");
  return (
    `The true classes of ${images} ${kinds}${entries.length > 1 ? ", one run after the other," : ""} and those that ` +
    `${name} predicts for them. No network has learned from the images that it classifies here.`
  );
}

/** Return [true class, predicted class, images], summed over runs. */
function total(entries) {
  const sums = new Map();
  for (const [truth, predicted, count] of entries.flatMap((entry) => entry.counts)) {
    const key = truth + "," + predicted;
    sums.set(key, [truth, predicted, (sums.get(key)?.[2] ?? 0) + count]);
  }
  return [...sums.values()];
}

class Matrix {
  constructor(figure) {
    this.frame = figure.querySelector(".frame");
    this.canvas = figure.querySelector("canvas");
    this.caption = figure.querySelector("figcaption");
    this.grid = figure.querySelector(".grid");
    this.names = [...figure.querySelectorAll(".names")];
    this.numbers = figure.querySelector(".counts");
    this.canvas.addEventListener("pointermove", (event) => this.showPair(event));
    this.canvas.addEventListener("pointerleave", () => this.showTotal());
  }

  show(classes, counts) {
    Object.assign(this, { classes, counts });
    this.size = new Array(classes.length).fill(0);
    for (const [truth, , count] of counts) this.size[truth] += count;
    const named = classes.length <= NAMED ? classes : [];
    for (const place of this.names) {
      place.replaceChildren(...named.map((name) => make("span", { title: name }, readable(name))));
    }
    this.grid.style.setProperty("--classes", classes.length);
    this.grid.classList.toggle("named", named.length > 0);
    this.grid.classList.toggle("counted", classes.length <= COUNTED);
    this.count();
    this.paint();
    this.showTotal();
  }

  /** Draw one pixel per pair; its opacity is the root of its fraction of the true class's images. */
  paint() {
    const n = this.classes.length;
    Object.assign(this.canvas, { width: n, height: n });
    const context = this.canvas.getContext("2d");
    const [hit, miss] = [color("hit"), color("miss")];
    for (const [truth, predicted, count] of this.counts) {
      context.globalAlpha = Math.sqrt(count / this.size[truth]);
      context.fillStyle = truth === predicted ? hit : miss;
      context.fillRect(predicted, truth, 1, 1);
    }
  }

  /** Write each count into its cell; empty cells stay empty. */
  count() {
    const n = this.classes.length;
    const cells = n <= COUNTED ? this.counts : [];
    this.numbers.replaceChildren(
      ...cells.map(([truth, predicted, count]) => {
        const dark = count / this.size[truth] > 0.3;
        const cell = make("span", { className: dark ? "dark" : "" }, String(count));
        cell.style.gridArea = `${truth + 1} / ${predicted + 1}`;
        return cell;
      }),
    );
  }

  showPair(event) {
    const box = this.canvas.getBoundingClientRect();
    const n = this.classes.length;
    const predicted = Math.min(n - 1, Math.floor(((event.clientX - box.left) / box.width) * n));
    const truth = Math.min(n - 1, Math.floor(((event.clientY - box.top) / box.height) * n));
    const found = this.counts.find(([t, a]) => t === truth && a === predicted);
    const names = [truth, predicted].map((c) => readable(this.classes[c] ?? ""));
    const count = `${found ? found[2] : 0} of ${this.size[truth] ?? 0}`;
    this.caption.textContent =
      truth === predicted ? `${names[0]}: ${count} correct` : `${names[0]} predicted as ${names[1]}: ${count}`;
  }

  showTotal() {
    const hits = this.counts.reduce((sum, [t, a, n]) => sum + (t === a ? n : 0), 0);
    const all = this.size.reduce((a, b) => a + b, 0);
    const percent = short((100 * hits) / all);
    const each = accuracies(this.counts).map((row) => row.accuracy);
    const mean = short((100 * each.reduce((sum, value) => sum + value, 0)) / each.length);
    this.caption.textContent = `${hits} of ${all} correct, ${percent} %; mean of the classes ${mean} %.`;
  }
}

/** Return the accuracy of each class that has images, lowest first. */
function accuracies(counts) {
  const rows = new Map();
  for (const [truth, predicted, count] of counts) {
    const row = rows.get(truth) ?? { truth, images: 0, hits: 0 };
    row.images += count;
    row.hits += truth === predicted ? count : 0;
    rows.set(truth, row);
  }
  const all = [...rows.values()].map((row) => ({ ...row, accuracy: row.hits / row.images }));
  return all.sort((a, b) => a.accuracy - b.accuracy || b.images - a.images || a.truth - b.truth);
}

function byClass(table, classes, counts) {
  const cells = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, {}, text)));
  table.replaceChildren(
    make("thead", {}, cells("th", ["correct, %", "images", "class"])),
    make(
      "tbody",
      {},
      ...accuracies(counts)
        .slice(0, PAIRS)
        .map((row) => cells("td", [short(100 * row.accuracy), String(row.images), readable(classes[row.truth])])),
    ),
  );
}

function pairs(table, classes, counts) {
  const wrong = counts.filter(([truth, predicted]) => truth !== predicted);
  wrong.sort((a, b) => b[2] - a[2]);
  const cells = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, {}, text)));
  table.replaceChildren(
    make("thead", {}, cells("th", ["images", "true class", "predicted class"])),
    make(
      "tbody",
      {},
      ...wrong
        .slice(0, PAIRS)
        .map(([t, a, n]) => cells("td", [String(n), readable(classes[t]), readable(classes[a])])),
    ),
  );
}

predictions();
