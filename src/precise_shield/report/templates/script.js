"use strict";
(() => {
  const tip = document.getElementById("tip");

  // Tables: a button in each head sorts; what has no number goes last either way.
  const compare = (a, b) => {
    const x = a.dataset.v, y = b.dataset.v;
    if (x !== undefined && y !== undefined) return Number(x) - Number(y);
    return a.textContent.localeCompare(b.textContent, "en");
  };
  const sort = (table, column, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], rows = [...body.rows];
    const numeric = rows.some((row) => row.cells[column].dataset.v !== undefined);
    const missing = (row) => numeric && row.cells[column].dataset.v === undefined;
    rows.sort((p, q) => missing(p) - missing(q) ||
      (down ? -1 : 1) * compare(p.cells[column], q.cells[column]));
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }

  // Figures: the words of <title>, shown at once; taken out so that no second box appears.
  const tell = (mark) => {
    tip.hidden = !mark;
    if (!mark) return;
    const title = mark.querySelector("title");
    if (title) {
      mark.setAttribute("data-tip", title.textContent);
      title.remove();
    }
    tip.textContent = mark.getAttribute("data-tip");
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const above = box.top - own.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  document.addEventListener("pointerover", (event) => {
    tell(event.target instanceof Element ? event.target.closest(".tip") : null);
  });

  // The same by keyboard: each picture is one stop, arrows, Home and End walk over its marks.
  for (const svg of document.querySelectorAll("figure svg.figure")) {
    const marks = [...svg.querySelectorAll(".tip")];
    if (!marks.length) continue;
    svg.tabIndex = 0;
    let at = -1;
    const leave = () => {
      if (at >= 0) marks[at].classList.remove("here");
      tip.hidden = true;
    };
    svg.addEventListener("blur", () => { leave(); at = -1; });
    svg.addEventListener("keydown", (event) => {
      const last = marks.length - 1;
      const to = {
        ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      leave();
      at = Math.min(Math.max(to, 0), last);
      marks[at].classList.add("here");
      tell(marks[at]);
    });
  }
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // Matrices whose rows and columns can be put in another order: a list above them.
  const arranged = (svg, order) => {
    const at = [];
    order.forEach((row, place) => { at[row] = place; });
    for (const part of svg.querySelectorAll("[data-r],[data-c]")) {
      const { r, c } = part.dataset;
      const x = c === undefined ? 0 : (at[c] - c) * svg.dataset.wide;
      const y = r === undefined ? 0 : (at[r] - r) * svg.dataset.high;
      part.setAttribute("transform", `translate(${x} ${y})`);
    }
  };
  for (const figure of document.querySelectorAll("figure")) {
    const movable = [...figure.querySelectorAll("svg[data-orders]")];
    if (!movable.length) continue;
    const orders = movable.map((svg) => JSON.parse(svg.dataset.orders));
    const label = document.createElement("label"), list = document.createElement("select");
    label.className = "order";
    label.append("Rows and columns ", list);
    for (const name of Object.keys(orders[0])) list.add(new Option(name, name));
    list.addEventListener("change", () => movable.forEach((svg, k) => {
      if (orders[k][list.value]) arranged(svg, orders[k][list.value]);
    }));
    figure.querySelector(".panels").before(label);
  }

  // Numbers: open all tables at once, for searching and printing.
  const numbers = [...document.querySelectorAll("details.numbers")];
  const all = document.getElementById("all");
  all.hidden = false;
  all.addEventListener("click", () => {
    const open = !numbers.every((one) => one.open);
    for (const one of numbers) one.open = open;
    all.textContent = open ? "Close all tables" : "Open all tables";
  });
})();
