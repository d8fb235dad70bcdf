// What the other scripts share. Text enters the page as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 10;

/** An element with properties and children; a string child is text. */
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A colour of the style sheet, which knows light and dark. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function swatch(group) {
  return make("span", { className: "swatch c" + (group % COLOURS) });
}

/** The bytes of a payload element. */
function bytesOf(id) {
  const binary = atob(document.getElementById(id).textContent);
  return Uint8Array.from(binary, (c) => c.charCodeAt(0));
}

/** 72.7, 3.51, 9493, 8.6e-5: three digits say enough. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

/** A class's name without its number and underscores: 003.Sooty_Albatross. */
function readable(name) {
  return name.replace(/^\d+[.\-_ ]+/, "").replaceAll("_", " ");
}

const onTheme = [];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const redraw of onTheme) redraw();
});
