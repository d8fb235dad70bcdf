// Reconstructions of the same masked images by pre-training runs: one picture per run, with a slider
// over the epochs.

function previews() {
  if (!data.previews.length) return;
  const section = document.getElementById("previews");
  section.hidden = false;
  const epochs = [...new Set(data.previews.flatMap((entry) => entry.epochs))].sort((a, b) => a - b);
  const sheets = data.previews.map((entry, i) => new Sheet(entry, i, section.querySelector(".sheets")));
  const slider = section.querySelector("input");
  slider.max = epochs.length - 1;
  slider.value = slider.max;
  section.querySelector(".controls").hidden = epochs.length < 2;
  const move = () => {
    const epoch = epochs[Number(slider.value)];
    section.querySelector("output").textContent = epoch;
    for (const sheet of sheets) sheet.show(epoch);
  };
  slider.addEventListener("input", move);
  move();
}

class Sheet {
  constructor(entry, number, place) {
    Object.assign(this, { entry, number });
    const { label, group } = data.runs[entry.run];
    this.image = make("img", { alt: `reconstructions, ${label}` });
    this.when = make("span", { className: "faint" });
    this.figure = make(
      "figure",
      {},
      make("figcaption", { title: label }, swatch(group), `${label} `, this.when),
      this.image,
    );
    this.image.addEventListener("click", () => this.figure.classList.toggle("wide"));
    place.append(this.figure);
  }

  /** Show the last picture up to an epoch; before the first picture, the first. */
  show(epoch) {
    const { epochs } = this.entry;
    const at = Math.max(0, epochs.findLastIndex((drawn) => drawn <= epoch));
    this.when.textContent = `after epoch ${epochs[at]}`;
    if (at === this.shown) return;
    this.shown = at;
    const text = document.getElementById(`v${this.number}-${at}`).textContent;
    this.image.src = "data:image/jpeg;base64," + text;
  }
}

previews();
