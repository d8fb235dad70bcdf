// Attention maps side by side: one row per image, one tile per model. A row's payload is decoded when
// it comes near the screen; the slider redraws only such rows.

const RANGE = 8; // bytes of a minimum and a maximum
const SCALE = 4; // pixels per patch, before the browser enlarges them
const palette = data.maps && data.maps.palette.match(/../g).map((pair) => parseInt(pair, 16));

const view = { position: 0, heads: "max", hidden: new Set() };
const rows = [];
const near = new Set();

function maps() {
  if (!data.maps) return;
  const chosen = document.querySelector("#maps .rows");
  const worst = document.querySelector("#predictions .worst .rows");
  data.maps.images.forEach((image, i) => {
    rows.push(new ImageRow(image, i, image.mistake ? worst : chosen));
  });
  document.querySelector("#predictions .worst").hidden = !data.maps.images.some((i) => i.mistake);
  document.getElementById("maps").hidden = false;
  writeLead();
  makeControls();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const row = entry.target.row;
        if (entry.isIntersecting) near.add(row);
        else near.delete(row);
        if (entry.isIntersecting) row.draw();
      }
    },
    { rootMargin: "400px" },
  );
  for (const row of rows) observer.observe(row.figure);
  addEventListener("beforeprint", () => rows.slice(0, 60).forEach((row) => row.draw()));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") rows.forEach((row) => row.select(null));
  });
}

function writeLead() {
  const { rows: count, deep, images, pooled, step } = data.maps;
  const parts = [
    "The fraction of its attention that the CLS token gives to each patch; each row has one color scale.",
  ];
  if (count) {
    const which = count < images.length ? ` of the first ${count} images` : "";
    const last = "in the last block";
    const selected = "in the selected block";
    const some = `${selected}; from image ${deep + 1} on, ${last}`;
    const where = deep === 0 ? last : deep >= images.length ? selected : some;
    parts.push(`Click a patch${which} to see its own attention (mean over heads, ${where}).`);
  }
  const limits = [
    step > 1 ? `every ${ordinal(step)} block` : "",
    pooled ? "the mean and maximum over heads" : "",
  ].filter(Boolean);
  if (limits.length) parts.push(`To limit its size, the page has only ${limits.join(" and ")}.`);
  document.querySelector("#maps .lead").textContent = parts.join(" ");
}

function ordinal(n) {
  return n + (n === 2 ? "nd" : n === 3 ? "rd" : "th");
}

function redraw() {
  for (const row of near) row.draw();
}

function makeControls() {
  const place = document.querySelector("#maps .controls");
  const slider = place.querySelector(".block");
  const output = place.querySelector("output");
  const deepest = data.maps.columns.reduce((a, b) => (b.blocks.length > a.blocks.length ? b : a));
  const last = deepest.blocks.length - 1;
  slider.max = last;
  slider.value = last;
  const move = () => {
    view.position = last - Number(slider.value); // from the last block: models differ in depth
    output.textContent = deepest.blocks[Number(slider.value)];
    redraw();
  };
  slider.addEventListener("input", move);
  move();

  const select = place.querySelector(".heads");
  const count = data.maps.pooled ? 0 : Math.max(...data.maps.columns.map((c) => c.heads));
  const names = ["max", "mean", ...Array(count).keys()];
  for (const name of names) select.append(make("option", { value: name }, String(name)));
  select.addEventListener("change", () => {
    view.heads = select.value;
    redraw();
  });

  const list = place.querySelector(".columns");
  data.maps.columns.forEach((column, c) => {
    const box = make("input", { type: "checkbox", checked: startsVisible(column) });
    if (!box.checked) view.hidden.add(c);
    box.addEventListener("change", () => {
      if (box.checked) view.hidden.delete(c);
      else view.hidden.add(c);
      redraw();
    });
    const mark = column.run === null ? null : swatch(data.runs[column.run].group);
    list.append(make("label", {}, box, mark, column.label));
  });
}

/** Return whether a column starts visible: of many only sources and first runs of a setting. */
function startsVisible(column) {
  if (data.maps.columns.length <= 8 || column.run === null) return true;
  return data.groups[data.runs[column.run].group].runs[0] === column.run;
}

/** Return the offsets of each column's maps in an image's payload. */
function layout(image) {
  let offset = 0;
  return data.maps.columns.map((column) => {
    const [gh, gw] = column.grid;
    const patches = gh * gw;
    const heads = data.maps.pooled ? 2 : column.heads;
    const ranges = offset;
    const levels = ranges + RANGE * column.blocks.length;
    offset = levels + column.blocks.length * heads * patches;
    const rows = offset;
    const deep = image < data.maps.deep;
    const blocks = deep ? column.blocks.length : Number(image < data.maps.rows); // with patch rows
    offset += blocks * (RANGE + patches * patches);
    return { patches, heads, ranges, levels, rows, blocks, deep };
  });
}

class ImageRow {
  constructor(image, number, place) {
    Object.assign(this, { image, number, selected: null, tiles: null, drawn: "" });
    const title = image.label === null ? image.name.split(/[/\\]/).pop() : readable(image.label);
    this.range = make("span", { className: "range" });
    const back = number < data.maps.deep ? "show CLS attention" : "last block · show CLS attention";
    this.query = make("button", { type: "button", className: "query", hidden: true }, back);
    this.query.addEventListener("click", () => this.select(null));
    this.box = make("div", { className: "tiles" });
    const name = make("span", { className: "faint name", title: image.name }, image.label === null ? "" : image.name);
    this.figure = make(
      "figure",
      { className: "row" },
      make("figcaption", {}, make("span", { className: "title" }, title), name, this.query, this.range),
      this.box,
    );
    this.figure.row = this;
    place.append(this.figure);
  }

  /** Show the attention of the patch at (x, y) in 0..1; null: of the CLS token. */
  select(point) {
    if (point !== null && this.number >= data.maps.rows) return;
    if (point === this.selected) return;
    this.selected = point;
    this.draw();
  }

  build() {
    this.bytes = bytesOf("m" + this.number);
    this.numbers = new DataView(this.bytes.buffer);
    this.parts = layout(this.number);
    const photo = this.tile("image", null, 0);
    this.tiles = data.maps.columns.map((column, c) => {
      const tile = this.tile(column.label, column, column.view);
      const prediction = this.image.predictions[c];
      if (prediction) tile.figure.append(this.prediction(...prediction));
      return tile;
    });
    this.box.append(photo.figure, ...this.tiles.map((tile) => tile.figure));
    this.marks = [photo, ...this.tiles].map((tile) => tile.mark);
  }

  tile(label, column, picture) {
    const source = "data:image/jpeg;base64,";
    const text = document.getElementById(`p${this.number}-${picture}`).textContent;
    const image = make("img", { src: source + text, alt: column ? "" : this.image.name });
    const mark = make("span", { className: "mark", hidden: true });
    const canvas = column && make("canvas", { role: "img", ariaLabel: `attention, ${label}` });
    const frame = make("div", { className: column ? "frame gray" : "frame" }, image, canvas, mark);
    frame.addEventListener("click", (event) => this.click(event, frame));
    const group = column && column.run !== null ? swatch(data.runs[column.run].group) : null;
    const caption = make("figcaption", { title: label }, group, label);
    return { column, canvas, mark, figure: make("figure", {}, frame, caption) };
  }

  prediction(name, probability) {
    const known = this.image.label !== null;
    const right = name === this.image.label;
    const sign = known ? (right ? "✓ " : "✗ ") : "";
    const kind = known && !right ? "prediction wrong" : "prediction";
    const text = `${sign}${Math.round(100 * probability)} % ${right ? "" : readable(name)}`;
    return make("div", { className: kind, title: name }, text);
  }

  click(event, frame) {
    const box = frame.getBoundingClientRect();
    const point = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const [gh, gw] = data.maps.columns[0].grid;
    const cell = (p) => p && Math.floor(p[1] * gh) * gw + Math.floor(p[0] * gw);
    this.select(cell(this.selected) === cell(point) ? null : point);
  }

  draw() {
    const state = [this.selected, view.position, view.heads, ...view.hidden].join();
    if (this.drawn === state) return;
    this.drawn = state;
    if (!this.tiles) this.build();
    const shown = [...this.tiles.keys()].filter((c) => !view.hidden.has(c));
    const maps = new Map(shown.map((c) => [c, this.values(c)]));
    let low = Infinity;
    let high = 0;
    for (const values of maps.values()) {
      for (const value of values ?? []) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    this.tiles.forEach((tile, c) => {
      const values = maps.get(c);
      tile.figure.hidden = view.hidden.has(c);
      tile.figure.classList.toggle("none", values === null);
      if (values) paint(tile.canvas, values, tile.column.grid, low, high);
    });
    this.showRange(low, high);
  }

  showRange(low, high) {
    const percent = (value) => short(100 * value);
    const from = low < high / 200 ? "0" : percent(low);
    this.range.replaceChildren(from, make("span", { className: "bar" }), percent(high) + " %");
    this.query.hidden = this.selected === null;
    const [gh, gw] = data.maps.columns[0].grid;
    for (const mark of this.marks) {
      mark.hidden = this.selected === null;
      if (this.selected === null) continue;
      mark.style.left = (100 * Math.floor(this.selected[0] * gw)) / gw + "%";
      mark.style.top = (100 * Math.floor(this.selected[1] * gh)) / gh + "%";
      mark.style.width = 100 / gw + "%";
      mark.style.height = 100 / gh + "%";
    }
  }

  /** Return a column's map in the selected block and head; null if the model has none. */
  values(c) {
    const { column } = this.tiles[c];
    const part = this.parts[c];
    const block = column.blocks.length - 1 - view.position;
    if (this.selected !== null) {
      const at = part.deep ? block : 0;
      if (at < 0) return null;
      const [gh, gw] = column.grid;
      const cell = Math.floor(this.selected[1] * gh) * gw + Math.floor(this.selected[0] * gw);
      const rows = part.rows + RANGE * part.blocks;
      const start = rows + (at * part.patches + cell) * part.patches;
      return this.decode(start, part.patches, part.rows + RANGE * at);
    }
    if (block < 0) return null;
    const range = part.ranges + RANGE * block;
    const head = (h) =>
      this.decode(part.levels + (block * part.heads + h) * part.patches, part.patches, range);
    if (data.maps.pooled) return head(view.heads === "mean" ? 0 : 1);
    if (view.heads !== "max" && view.heads !== "mean") {
      return Number(view.heads) < part.heads ? head(Number(view.heads)) : null;
    }
    const all = [...Array(part.heads).keys()].map(head);
    const join = view.heads === "max" ? (a, b) => Math.max(a, b) : (a, b) => a + b / part.heads;
    const from = new Float32Array(part.patches);
    return all.reduce((sum, values) => sum.map((value, i) => join(value, values[i])), from);
  }

  /** Decode levels: the square root of a value's position between minimum and maximum. */
  decode(start, count, range) {
    const low = this.numbers.getFloat32(range, true);
    const spread = this.numbers.getFloat32(range + 4, true) - low;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = low + spread * (this.bytes[start + i] / 255) ** 2;
    return values;
  }
}

/** Draw a map in colors, more opaque where it is high, to be laid over the image in gray. */
function paint(canvas, values, [gh, gw], low, high) {
  const h = gh * SCALE;
  const w = gw * SCALE;
  const wide = enlarge(enlarge(values, gw, gh), gh, w); // transposed twice
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(w, h);
  const { faint, strong } = data.maps;
  const spread = Math.max(high - low, 1e-12);
  for (let i = 0; i < wide.length; i++) {
    const unit = Math.min(1, Math.max(0, (wide[i] - low) / spread));
    const color = 3 * Math.round(255 * unit);
    picture.data[4 * i] = palette[color];
    picture.data[4 * i + 1] = palette[color + 1];
    picture.data[4 * i + 2] = palette[color + 2];
    picture.data[4 * i + 3] = 255 * (faint + (strong - faint) * unit);
  }
  context.putImageData(picture, 0, 0);
}

/** Enlarge rows by Catmull-Rom and transpose: (height x width) -> (SCALE * width x height). */
function enlarge(values, width, height) {
  const out = new Float32Array(width * SCALE * height);
  for (let x = 0; x < width * SCALE; x++) {
    const at = (x + 0.5) / SCALE - 0.5;
    const left = Math.floor(at);
    const t = at - left;
    const weights = [
      ((2 - t) * t - 1) * t * 0.5,
      ((3 * t - 5) * t * t + 2) * 0.5,
      ((4 - 3 * t) * t + 1) * t * 0.5,
      (t - 1) * t * t * 0.5,
    ];
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) {
        const column = Math.min(width - 1, Math.max(0, left - 1 + k));
        sum += weights[k] * values[y * width + column];
      }
      out[x * height + y] = sum;
    }
  }
  return out;
}

maps();
