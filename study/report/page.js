"use strict";
// Draws the figures that Python computed, and links them: choices, colour scheme, sorting, and one selected trial.
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const darkQuery = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = Object.fromEntries(Object.keys(payload.figures).map((name) => [name, 0]));
  let picked = null;

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkQuery.matches);

  // Python draws in light colours; each one that has a dark counterpart is swapped wherever it stands alone.
  const recoloured = (value) => {
    if (typeof value === "string") return isDark() && value in payload.dark ? payload.dark[value] : value;
    if (Array.isArray(value)) return value.map(recoloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recoloured(item)]));
  };

  const withSelection = (trace) => {
    if (picked === null || !Array.isArray(trace.customdata) || trace.mode === "lines") return trace;
    const places = trace.customdata.flatMap((trial, place) => (String(trial) === picked ? [place] : []));
    return { ...trace, selectedpoints: places, unselected: { marker: { opacity: 0.15 } } };
  };

  // Charts that follow a choice made elsewhere name it; the others have their own.
  const choiceOf = (div) => div.dataset.choice ?? div.dataset.figure;

  const draw = (div) => {
    const figure = recoloured(payload.figures[div.dataset.figure][chosen[choiceOf(div)] ?? 0]);
    return Plotly.react(div, figure.data.map(withSelection), figure.layout, payload.config);
  };

  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => Promise.all(plots.map(draw));

  const pick = (trial) => {
    picked = trial;
    for (const row of document.querySelectorAll("tr[data-trial]")) {
      const own = row.dataset.trial === picked;
      row.classList.toggle("picked", own);
      row.setAttribute("aria-selected", String(own));
    }
    document.getElementById("selection").textContent =
      picked === null ? "" : `Trial ${picked} is marked in every chart and table. Escape clears.`;
    return drawAll();
  };
  const toggle = (trial) => pick(picked === trial ? null : trial);

  const showVariant = (name) => {
    for (const part of document.querySelectorAll(`[data-variant^="${name}-"]`)) {
      part.hidden = part.dataset.variant !== `${name}-${chosen[name]}`;
    }
  };

  const wireChoices = () => {
    for (const input of document.querySelectorAll("fieldset.choice input")) {
      input.addEventListener("change", () => {
        chosen[input.name] = Number(input.value);
        showVariant(input.name);
        plots.filter((div) => choiceOf(div) === input.name).forEach(draw);
      });
      if (input.checked) chosen[input.name] = Number(input.value);
    }
    Object.keys(chosen).forEach(showVariant);
  };

  const cellValue = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };

  const compare = (first, second) => {
    if (typeof first === "number" && typeof second === "number") return first - second;
    if (typeof first !== typeof second) return typeof first === "number" ? -1 : 1;
    return first.localeCompare(second, undefined, { numeric: true });
  };

  // Empty cells and words among numbers stay last in both directions.
  const sortBy = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const descending = head.getAttribute("aria-sort") !== "descending";
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.some((row) => typeof cellValue(row, column) === "number");
    rows.sort((a, b) => {
      const [first, second] = [cellValue(a, column), cellValue(b, column)];
      const mixed = numeric && (typeof first !== "number" || typeof second !== "number");
      return (descending && !mixed ? -1 : 1) * compare(first, second);
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  };

  const wireTables = () => {
    for (const table of document.querySelectorAll("table.sortable")) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = head.textContent;
        button.addEventListener("click", () => sortBy(table, column));
        head.replaceChildren(button);
      });
    }
    for (const row of document.querySelectorAll("tr[data-trial]")) {
      row.tabIndex = 0;
      row.addEventListener("click", () => toggle(row.dataset.trial));
      row.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        toggle(row.dataset.trial);
      });
    }
  };

  const wirePlots = () => {
    for (const div of plots) {
      div.on("plotly_click", (event) => {
        const trial = event.points[0].customdata ?? event.points[0].data.meta;
        if (trial !== undefined && trial !== null) toggle(String(trial));
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && picked !== null) pick(null);
    });
  };

  const wireTheme = () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      drawAll();
    });
    darkQuery.addEventListener("change", drawAll);
  };

  wireChoices();
  wireTables();
  wireTheme();
  drawAll().then(() => {
    wirePlots();
    window.reportReady = true;
  });
})();
