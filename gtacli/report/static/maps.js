// Attention maps side by side: a row an image, a tile a network. A row's payload is decoded when it
// comes near the screen; the slider redraws only what is there.

const RANGE = 8; // bytes of a least and a greatest value
const SCALE = 4; // map pixels a patch, before the browser enlarges them
const palette = data.maps && data.maps.palette.match(/../g).map((pair) => parseInt(pair, 16));

const view = { position: 0, heads: "max", hidden: new Set() };
const rows = [];
const near = new Set();

function maps() {
  if (!data.maps) return;
  const chosen = document.querySelector("#maps .rows");
  const worst = document.querySelector("#answers .worst .rows");
  data.maps.images.forEach((image, i) => {
    rows.push(new Row(image, i, image.mistake ? worst : chosen));
  });
  document.querySelector("#answers .worst").hidden = !data.maps.images.some((i) => i.mistake);
  document.getElementById("maps").hidden = false;
  lead();
  controls();
  const watcher = new IntersectionObserver(
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
  for (const row of rows) watcher.observe(row.figure);
  addEventListener("beforeprint", () => rows.slice(0, 60).forEach((row) => row.draw()));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") rows.forEach((row) => row.ask(null));
  });
}

function lead() {
  const { rows: count, deep, images, pooled, step } = data.maps;
  const parts = [
    "The share of its attention that the CLS token gives to each patch; one scale of colours a row.",
  ];
  if (count) {
    const which = count < images.length ? ` of the first ${count} images` : "";
    const last = "in the last block";
    const own = "in the slider's block";
    const where =
      deep === 0 ? last : deep >= images.length ? own : `${own}; from image ${deep + 1} on, ${last}`;
    parts.push(`Click on a patch${which} for its own attention (mean over the heads, ${where}).`);
  }
  const kept = [
    step > 1 ? `every ${ordinal(step)} block` : "",
    pooled ? "of the heads their mean and maximum" : "",
  ].filter(Boolean);
  if (kept.length) parts.push(`To stay small, the page holds ${kept.join(", and ")}.`);
  document.querySelector("#maps .lead").textContent = parts.join(" ");
}

function ordinal(n) {
  return n + (n === 2 ? "nd" : n === 3 ? "rd" : "th");
}

function redraw() {
  for (const row of near) row.draw();
}

function controls() {
  const place = document.querySelector("#maps .controls");
  const slider = place.querySelector(".layer");
  const output = place.querySelector("output");
  const deepest = data.maps.columns.reduce((a, b) => (b.layers.length > a.layers.length ? b : a));
  const last = deepest.layers.length - 1;
  slider.max = last;
  slider.value = last;
  const move = () => {
    view.position = last - Number(slider.value); // from the last block: networks differ in depth
    output.textContent = deepest.layers[Number(slider.value)];
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
    const box = make("input", { type: "checkbox", checked: shownAtFirst(column) });
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

/** All of a few networks; of many the sources and the first run of each setting. */
function shownAtFirst(column) {
  if (data.maps.columns.length <= 8 || column.run === null) return true;
  return data.groups[data.runs[column.run].group].runs[0] === column.run;
}

/** Where the parts of each column's maps lie in an image's payload. */
function layout(image) {
  let offset = 0;
  return data.maps.columns.map((column) => {
    const [gh, gw] = column.grid;
    const patches = gh * gw;
    const heads = data.maps.pooled ? 2 : column.heads;
    const ranges = offset;
    const levels = ranges + RANGE * column.layers.length;
    offset = levels + column.layers.length * heads * patches;
    const rows = offset;
    const deep = image < data.maps.deep; // of how many blocks there are the patches' rows
    const blocks = deep ? column.layers.length : Number(image < data.maps.rows);
    offset += blocks * (RANGE + patches * patches);
    return { patches, heads, ranges, levels, rows, blocks, deep };
  });
}

class Row {
  constructor(image, number, place) {
    Object.assign(this, { image, number, asked: null, tiles: null, drawn: "" });
    const title = image.label === null ? image.name.split(/[/\\]/).pop() : readable(image.label);
    this.range = make("span", { className: "range" });
    const back = number < data.maps.deep ? "back to CLS" : "last block · back to CLS";
    this.query = make("button", { type: "button", className: "query", hidden: true }, back);
    this.query.addEventListener("click", () => this.ask(null));
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

  /** The patch whose attention is shown, as (x, y) in 0..1; null: the CLS token. */
  ask(point) {
    if (point !== null && this.number >= data.maps.rows) return;
    if (point === this.asked) return;
    this.asked = point;
    this.draw();
  }

  build() {
    this.bytes = bytesOf("m" + this.number);
    this.numbers = new DataView(this.bytes.buffer);
    this.parts = layout(this.number);
    const photo = this.tile("image", null, 0);
    this.tiles = data.maps.columns.map((column, c) => {
      const tile = this.tile(column.label, column, column.view);
      const answer = this.image.answers[c];
      if (answer) tile.figure.append(this.answer(...answer));
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
    const frame = make("div", { className: column ? "frame grey" : "frame" }, image, canvas, mark);
    frame.addEventListener("click", (event) => this.click(event, frame));
    const group = column && column.run !== null ? swatch(data.runs[column.run].group) : null;
    const caption = make("figcaption", { title: label }, group, label);
    return { column, canvas, mark, figure: make("figure", {}, frame, caption) };
  }

  answer(name, probability) {
    const known = this.image.label !== null;
    const right = name === this.image.label;
    const sign = known ? (right ? "✓ " : "✗ ") : "";
    const kind = known && !right ? "answer wrong" : "answer";
    const text = `${sign}${Math.round(100 * probability)} % ${right ? "" : readable(name)}`;
    return make("div", { className: kind, title: name }, text);
  }

  click(event, frame) {
    const box = frame.getBoundingClientRect();
    const point = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const [gh, gw] = data.maps.columns[0].grid;
    const cell = (p) => p && Math.floor(p[1] * gh) * gw + Math.floor(p[0] * gw);
    this.ask(cell(this.asked) === cell(point) ? null : point);
  }

  draw() {
    const state = [this.asked, view.position, view.heads, ...view.hidden].join();
    if (this.drawn === state) return;
    this.drawn = state;
    if (!this.tiles) this.build();
    const shown = [...this.tiles.keys()].filter((c) => !view.hidden.has(c));
    const found = new Map(shown.map((c) => [c, this.values(c)]));
    let low = Infinity;
    let high = 0;
    for (const values of found.values()) {
      for (const value of values ?? []) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    this.tiles.forEach((tile, c) => {
      const values = found.get(c);
      tile.figure.hidden = view.hidden.has(c);
      tile.figure.classList.toggle("none", values === null);
      if (values) paint(tile.canvas, values, tile.column.grid, low, high);
    });
    this.tell(low, high);
  }

  tell(low, high) {
    const percent = (value) => short(100 * value);
    const from = low < high / 200 ? "0" : percent(low);
    this.range.replaceChildren(from, make("span", { className: "bar" }), percent(high) + " %");
    this.query.hidden = this.asked === null;
    const [gh, gw] = data.maps.columns[0].grid;
    for (const mark of this.marks) {
      mark.hidden = this.asked === null;
      if (this.asked === null) continue;
      mark.style.left = (100 * Math.floor(this.asked[0] * gw)) / gw + "%";
      mark.style.top = (100 * Math.floor(this.asked[1] * gh)) / gh + "%";
      mark.style.width = 100 / gw + "%";
      mark.style.height = 100 / gh + "%";
    }
  }

  /** Of a column: the map that is asked for, or null where the network has no such block. */
  values(c) {
    const { column } = this.tiles[c];
    const part = this.parts[c];
    const layer = column.layers.length - 1 - view.position;
    if (this.asked !== null) {
      const block = part.deep ? layer : 0;
      if (block < 0) return null;
      const [gh, gw] = column.grid;
      const cell = Math.floor(this.asked[1] * gh) * gw + Math.floor(this.asked[0] * gw);
      const rows = part.rows + RANGE * part.blocks;
      const start = rows + (block * part.patches + cell) * part.patches;
      return this.decode(start, part.patches, part.rows + RANGE * block);
    }
    if (layer < 0) return null;
    const range = part.ranges + RANGE * layer;
    const head = (h) =>
      this.decode(part.levels + (layer * part.heads + h) * part.patches, part.patches, range);
    if (data.maps.pooled) return head(view.heads === "mean" ? 0 : 1);
    if (view.heads !== "max" && view.heads !== "mean") {
      return Number(view.heads) < part.heads ? head(Number(view.heads)) : null;
    }
    const all = [...Array(part.heads).keys()].map(head);
    const join = view.heads === "max" ? (a, b) => Math.max(a, b) : (a, b) => a + b / part.heads;
    const from = new Float32Array(part.patches);
    return all.reduce((sum, values) => sum.map((value, i) => join(value, values[i])), from);
  }

  /** Levels are the square root of where a value lies between the least and the greatest. */
  decode(start, count, range) {
    const low = this.numbers.getFloat32(range, true);
    const spread = this.numbers.getFloat32(range + 4, true) - low;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = low + spread * (this.bytes[start + i] / 255) ** 2;
    return values;
  }
}

/** A map in colours, stronger where it is high, as a picture that lies over the image in grey. */
function paint(canvas, values, [gh, gw], low, high) {
  const h = gh * SCALE;
  const w = gw * SCALE;
  const wide = enlarge(enlarge(values, gw, gh), gh, w); // turned, then turned back
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(w, h);
  const { faint, strong } = data.maps;
  const spread = Math.max(high - low, 1e-12);
  for (let i = 0; i < wide.length; i++) {
    const unit = Math.min(1, Math.max(0, (wide[i] - low) / spread));
    const colour = 3 * Math.round(255 * unit);
    picture.data[4 * i] = palette[colour];
    picture.data[4 * i + 1] = palette[colour + 1];
    picture.data[4 * i + 2] = palette[colour + 2];
    picture.data[4 * i + 3] = 255 * (faint + (strong - faint) * unit);
  }
  context.putImageData(picture, 0, 0);
}

/** (height x width) -> (SCALE * width x height): rows enlarged by Catmull-Rom, and turned. */
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
