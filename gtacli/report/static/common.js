// Functions that the other scripts share. Text enters the page as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);

/** Create an element with properties and children; a string child becomes a text node. */
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Return a color of the style sheet, which has a light and a dark scheme. */
function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** Return a dot in the color of a group, by the group's index. */
function swatch(group) {
  return make("span", { className: "swatch c" + data.groups[group].color });
}

/** Return the bytes of a payload element. */
function bytesOf(id) {
  const binary = atob(document.getElementById(id).textContent);
  return Uint8Array.from(binary, (c) => c.charCodeAt(0));
}

/** Format a number with three digits: 72.7, 3.51, 9493, 8.6e-5. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

/** Remove number and underscores from a class name such as 003.Sooty_Albatross. */
function readable(name) {
  return name.replace(/^\d+[.\-_ ]+/, "").replaceAll("_", " ");
}

const onTheme = [];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const redraw of onTheme) redraw();
});
