"use strict";
// What a reader can do with scripts: values where one points, series on and off, PNG and CSV. The page is whole
// without it: values are titles of the SVG, the scale is switched by CSS, files lie beside the page.
(() => {
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];

  function showValues() {
    const box = document.createElement("div");
    box.className = "value";
    box.hidden = true;
    box.setAttribute("role", "status");
    document.body.append(box);
    for (const title of every("svg .says > title")) {
      title.parentNode.dataset.value = title.textContent;
      title.remove(); // or the browser shows it a second time
    }
    const hide = () => { box.hidden = true; };
    document.addEventListener("pointerover", (event) => {
      const said = event.target.closest && event.target.closest(".says");
      if (!said) return hide();
      box.textContent = said.dataset.value;
      box.hidden = false;
      const width = box.offsetWidth, edge = document.documentElement.clientWidth - width - 6;
      box.style.left = Math.max(6, Math.min(event.clientX + 12, edge)) + "px";
      box.style.top = Math.max(6, event.clientY - box.offsetHeight - 12) + "px";
    });
    document.addEventListener("scroll", hide, true);
  }

  function switchSeries(box) {
    for (const part of every("svg [data-series]", box.closest("figure"))) {
      if (part.dataset.series === box.dataset.toggle) part.classList.toggle("off", !box.checked);
    }
  }

  function download(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // The colours of the page are variables, which an image of its own does not know: it gets their values.
  function withColours(text) {
    const style = getComputedStyle(document.documentElement);
    return text.replace(/var\((--c-[0-9a-f]{6}), (#[0-9a-f]{6})\)/g,
      (_, name, light) => style.getPropertyValue(name).trim() || light);
  }

  function png(name, figure) {
    const svg = every(".drawing svg", figure).find((drawing) => drawing.getClientRects().length);
    const copy = svg.cloneNode(true), scale = 3;
    for (const part of every(".off", copy)) part.remove();
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("xmlns:xlink", "http://www.w3.org/1999/xlink");
    copy.setAttribute("width", width * scale);
    copy.setAttribute("height", height * scale);
    const text = withColours(new XMLSerializer().serializeToString(copy));
    const address = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.getContext("2d").drawImage(image, 0, 0);
      URL.revokeObjectURL(address);
      canvas.toBlob((blob) => download(name, blob), "image/png");
    };
    image.src = address;
  }

  function csv(rows) {
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    return new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n"], {type: "text/csv"});
  }

  function rowsOf(table) {
    return every("tr", table).map((row) => every("th, td", row).map((cell) => cell.textContent.trim()));
  }

  showValues();
  for (const part of every(".tools, .downloads")) part.hidden = false;
  for (const box of every("[data-toggle]")) {
    switchSeries(box); // a browser may remember what was switched off
    box.addEventListener("change", () => switchSeries(box));
  }
  for (const button of every("[data-all]")) {
    button.addEventListener("click", () => {
      for (const box of every("[data-toggle]", button.closest("figure"))) {
        box.checked = button.dataset.all === "on";
        switchSeries(box);
      }
    });
  }
  for (const button of every("[data-png]")) {
    button.addEventListener("click", () => png(button.dataset.png, button.closest("figure")));
  }
  for (const button of every("[data-csv]")) {
    button.addEventListener("click", () => {
      const tables = JSON.parse(document.getElementById("csv").textContent);
      download(button.dataset.csv + ".csv", csv(tables[button.dataset.csv]));
    });
  }
  for (const button of every("[data-table]")) {
    button.addEventListener("click", () => {
      const table = button.parentNode.previousElementSibling.querySelector("table");
      const name = button.dataset.table.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
      download(name + ".csv", csv(rowsOf(table)));
    });
  }
  document.documentElement.classList.add("scripted");
})();
