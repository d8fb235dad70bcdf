// What the runs take the test images for: the confusion matrix of a run, or of a setting's runs
// together, and the pairs of classes that are confused most.

const PAIRS = 12;
const NAMED = 24; // classes up to which the matrix names its rows

function answers() {
  if (!data.answers) return;
  const section = document.getElementById("answers");
  section.hidden = false;
  const select = section.querySelector(".whose");
  const choices = [...groupChoices(), ...data.answers.runs.map((entry) => [label(entry), [entry]])];
  choices.forEach(([name], i) => select.append(make("option", { value: i }, name)));
  const matrix = new Matrix(section.querySelector(".matrix"));
  const show = () => {
    const entries = choices[select.value][1];
    const classes = data.answers.classes[entries[0].set];
    const counts = total(entries);
    matrix.show(classes, counts);
    pairs(section.querySelector(".pairs"), classes, counts);
  };
  select.addEventListener("change", show);
  onTheme.push(() => matrix.paint());
  show();
}

function label(entry) {
  return data.runs[entry.run].label;
}

/** Settings of which several runs were tested, on the same classes. */
function groupChoices() {
  return data.groups
    .map((group) => [group.label, data.answers.runs.filter((e) => group.runs.includes(e.run))])
    .filter(([, entries]) => entries.length > 1 && entries.every((e) => e.set === entries[0].set))
    .map(([name, entries]) => [`${name}, ${entries.length} runs`, entries]);
}

/** [true, answered, images], summed over runs. */
function total(entries) {
  const sums = new Map();
  for (const [truth, answer, count] of entries.flatMap((entry) => entry.counts)) {
    const key = truth + "," + answer;
    sums.set(key, [truth, answer, (sums.get(key)?.[2] ?? 0) + count]);
  }
  return [...sums.values()];
}

class Matrix {
  constructor(figure) {
    this.frame = figure.querySelector(".frame");
    this.canvas = figure.querySelector("canvas");
    this.caption = figure.querySelector("figcaption");
    this.names = make("div", { className: "names" });
    this.frame.before(this.names);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.tell());
  }

  show(classes, counts) {
    Object.assign(this, { classes, counts });
    this.size = new Array(classes.length).fill(0);
    for (const [truth, , count] of counts) this.size[truth] += count;
    const named = classes.length <= NAMED ? classes : [];
    this.names.replaceChildren(...named.map((name) => make("span", { title: name }, readable(name))));
    this.paint();
    this.tell();
  }

  /** A pixel a pair, as strong as its share of the true class's images. */
  paint() {
    const n = this.classes.length;
    Object.assign(this.canvas, { width: n, height: n });
    const context = this.canvas.getContext("2d");
    const [hit, miss] = [colour("hit"), colour("miss")];
    for (const [truth, answer, count] of this.counts) {
      context.globalAlpha = Math.sqrt(count / this.size[truth]);
      context.fillStyle = truth === answer ? hit : miss;
      context.fillRect(answer, truth, 1, 1);
    }
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const n = this.classes.length;
    const answer = Math.min(n - 1, Math.floor(((event.clientX - box.left) / box.width) * n));
    const truth = Math.min(n - 1, Math.floor(((event.clientY - box.top) / box.height) * n));
    const found = this.counts.find(([t, a]) => t === truth && a === answer);
    const names = [truth, answer].map((c) => readable(this.classes[c] ?? ""));
    const count = `${found ? found[2] : 0} of ${this.size[truth] ?? 0}`;
    this.caption.textContent =
      truth === answer ? `${names[0]}: ${count} right` : `${names[0]} taken for ${names[1]}: ${count}`;
  }

  tell() {
    const hits = this.counts.reduce((sum, [t, a, n]) => sum + (t === a ? n : 0), 0);
    const all = this.size.reduce((a, b) => a + b, 0);
    const share = short((100 * hits) / all);
    this.caption.textContent = `${hits} of ${all} right, ${share} %.`;
  }
}

function pairs(table, classes, counts) {
  const wrong = counts.filter(([truth, answer]) => truth !== answer);
  wrong.sort((a, b) => b[2] - a[2]);
  const cells = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, {}, text)));
  table.replaceChildren(
    make("thead", {}, cells("th", ["images", "true class", "taken for"])),
    make(
      "tbody",
      {},
      ...wrong
        .slice(0, PAIRS)
        .map(([t, a, n]) => cells("td", [String(n), readable(classes[t]), readable(classes[a])])),
    ),
  );
}

answers();
