// Tables that are wider than the page: they scroll, and a line says so.

function watchWidths() {
  for (const box of document.querySelectorAll(".scroll")) {
    const hint = make("p", { className: "hint wide", hidden: true }, "This table is wider than the page: scroll it sideways for more columns.");
    box.before(hint);
    const update = () => {
      hint.hidden = box.scrollWidth <= box.clientWidth;
      if (hint.hidden) box.removeAttribute("tabindex");
      else box.tabIndex = 0; // so that the arrow keys scroll it
    };
    const observer = new ResizeObserver(update);
    observer.observe(box);
    observer.observe(box.firstElementChild);
  }
}

watchWidths();
