"use strict";
(() => {
  const tip = document.getElementById("tip");
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  if (matchMedia("(max-width: 60rem)").matches) document.querySelector("nav details").open = false;

  // Numbers as people write them: 4.61k, 1.65 MB, 12 ms, > 511, 3/5. What is none comes last.
  const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, s: 1, ms: 1e-3, "µs": 1e-6, ns: 1e-9, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
  const number = (text) => {
    const found = /^[>~]?\s*([-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*(k|M|G|T|ms|µs|ns|s|kB|MB|GB|TB|B)?(?![A-Za-z])(?:\/(\d+))?/.exec(text.trim());
    if (!found) return NaN;
    const value = parseFloat(found[1].replace("−", "-")) * (units[found[2]] || 1);
    return found[3] > 0 ? value / found[3] : value;
  };

  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = "Sort";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        const order = { null: "ascending", ascending: "descending" }[before];
        if (order) head.setAttribute("aria-sort", order);
        const sign = order === "descending" ? -1 : 1;
        const text = (row) => row.cells[column].textContent;
        const compare = (a, b) => {
          const [x, y] = [number(text(a)), number(text(b))];
          if (isNaN(x) && isNaN(y)) return sign * text(a).localeCompare(text(b), "en");
          if (isNaN(x) || isNaN(y)) return isNaN(x) ? 1 : -1;
          return sign * (x - y);
        };
        body.append(...(order ? [...original].sort(compare) : original));
      });
    });
    if (original.length > 8) {
      const label = document.createElement("label");
      label.className = "filter";
      label.textContent = "Filter rows";
      const input = document.createElement("input");
      input.type = "search";
      label.append(input);
      input.addEventListener("input", () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        for (const row of original) {
          const text = row.textContent.toLowerCase();
          row.classList.toggle("off", !words.every((word) => text.includes(word)));
        }
      });
      table.parentElement.before(label);
    }
  }

  const show = (text, x, y) => {
    tip.textContent = text;
    tip.classList.add("on");
    const box = tip.getBoundingClientRect();
    const left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4));
    const top = y - box.height - 12 < 4 ? y + 16 : y - box.height - 12;
    tip.style.transform = `translate(${left}px,${top}px)`;
  };

  for (const figure of document.querySelectorAll("figure")) {
    const svg = figure.querySelector("svg.plot");
    const keys = [...figure.querySelectorAll(".key")];
    const names = keys.map((key) => key.textContent.trim());
    const hidden = new Set();
    for (const key of keys) {
      key.addEventListener("click", () => {
        const series = key.dataset.s;
        const off = !hidden.has(series);
        if (off) hidden.add(series); else hidden.delete(series);
        key.setAttribute("aria-pressed", String(!off));
        for (const group of svg.querySelectorAll(`g[data-s="${series}"]`)) group.classList.toggle("off", off);
        hide();
      });
    }
    const hits = (svg.dataset.hits || "").split("\n").filter(Boolean).map((line) => {
      const [x, y, series, text] = line.split("\t");
      return { x: +x, y: +y, series, text: (series === "" || !names[series] ? "" : names[series] + ": ") + text };
    });
    let at = -1;
    let ring = null;
    const hide = () => { tip.classList.remove("on"); if (ring) ring.remove(); ring = null; };
    const point = (index) => {
      at = index;
      const hit = hits[index];
      if (!ring) {
        ring = document.createElementNS(svg.namespaceURI, "circle");
        ring.setAttribute("class", "ring");
        ring.setAttribute("r", 42);
        svg.append(ring);
      }
      ring.setAttribute("cx", hit.x);
      ring.setAttribute("cy", hit.y);
      const box = ring.getBoundingClientRect();
      show(hit.text, box.left + box.width / 2, box.top + box.height / 2);
    };
    svg.addEventListener("pointermove", (event) => {
      const inverse = svg.getScreenCTM().inverse();
      const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(inverse);
      let best = -1, nearest = 160 ** 2;
      hits.forEach((hit, index) => {
        if (hidden.has(hit.series)) return;
        const distance = (hit.x - here.x) ** 2 + (hit.y - here.y) ** 2;
        if (distance < nearest) { nearest = distance; best = index; }
      });
      if (best < 0) hide(); else point(best);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !hits.some((hit) => !hidden.has(hit.series))) return;
      event.preventDefault();
      let next = at;
      do next = (next + step + hits.length) % hits.length; while (hidden.has(hits[next].series));
      point(next);
    });
  }
  addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
})();
