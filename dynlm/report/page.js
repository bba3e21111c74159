"use strict";
// Light and dark, tables sorted by their heads, figures enlarged. The page is whole without it.
(() => {
  const root = document.documentElement;
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const scheme = document.getElementById("scheme");
  const kept = {
    get: () => { try { return localStorage.getItem("dynlm-scheme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("dynlm-scheme", value); } catch { /* from disk */ } },
  };
  const dark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : asked.matches);
  const name = () => { scheme.textContent = dark() ? "Light" : "Dark"; };
  if (["light", "dark"].includes(kept.get())) root.dataset.scheme = kept.get();
  scheme.hidden = false;
  scheme.setAttribute("aria-label", "Change between light and dark");
  scheme.addEventListener("click", () => {
    root.dataset.scheme = dark() ? "light" : "dark";
    kept.set(root.dataset.scheme);
    name();
  });
  asked.addEventListener("change", name);
  name();

  // Numbers as numbers, words by the alphabet, nothing always last.
  const compare = (a, b, sign) => {
    const [x, y] = [a.dataset.sort, b.dataset.sort];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const [p, q] = [Number(x), Number(y)];
    const numbers = x !== "" && y !== "" && !Number.isNaN(p) && !Number.isNaN(q);
    return sign * (numbers ? p - q : x.localeCompare(y, "en", { numeric: true }));
  };
  for (const head of document.querySelectorAll("thead th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = head.closest("table").tBodies[0];
      const rows = [...body.rows].filter((row) => row.cells.length > head.cellIndex);
      rows.sort((a, b) => compare(a.cells[head.cellIndex], b.cells[head.cellIndex], rising ? 1 : -1));
      body.append(...rows);
    });
  }

  const dialog = document.getElementById("enlarged");
  const close = dialog.querySelector("button");
  const enlarge = (figure) => {
    const canvas = figure.querySelector(".canvas").cloneNode(true);
    for (const one of canvas.querySelectorAll("[id]")) one.removeAttribute("id");
    dialog.querySelector("h2").textContent = figure.querySelector("h4").textContent;
    dialog.querySelector(".caption").textContent = figure.querySelector("figcaption").textContent;
    dialog.querySelector(".canvas").replaceWith(canvas);
    dialog.showModal();
  };
  for (const figure of document.querySelectorAll("figure.drawn")) {
    const button = figure.querySelector(".enlarge");
    button.hidden = false;
    button.setAttribute("aria-label", "Enlarge: " + figure.querySelector("h4").textContent);
    button.addEventListener("click", () => enlarge(figure));
    figure.querySelector(".canvas").addEventListener("click", () => enlarge(figure));
  }
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
