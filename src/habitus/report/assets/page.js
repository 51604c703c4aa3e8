// Draws the page's figures in the reader's theme, again when that changes, and the map of users by the reader's choice.
(() => {
  "use strict";
  const root = document.documentElement;
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const map = JSON.parse(document.getElementById("map-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "x", "hexagon"];
  const isDark = () => dark.matches && root.dataset.theme !== "light";
  // viridis without the end that would vanish against the background
  const SCALES = {
    light: [[0, "#440154"], [0.25, "#414487"], [0.5, "#2a788e"], [0.75, "#22a884"], [1, "#7ad151"]],
    dark: [[0, "#5a5fb0"], [0.25, "#2f8fa0"], [0.5, "#22a884"], [0.75, "#7ad151"], [1, "#fde725"]],
  };

  function theme() {
    const style = getComputedStyle(root);
    const found = { "@scale": SCALES[isDark() ? "dark" : "light"] };
    for (const name of ["ink", "muted", "line", "surface", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"])
      found["@" + name] = style.getPropertyValue("--" + name).trim();
    return found;
  }

  // Names of colors become colors; only under keys that hold colors, so that no text of the data is taken for one.
  function colored(value, colors, key = "") {
    if (typeof value === "string") return key.toLowerCase().endsWith("color") || key === "colorscale" ? colors[value] ?? value : value;
    if (Array.isArray(value)) return key.toLowerCase().endsWith("color") ? value.map((one) => colored(one, colors, key)) : value.map((one) => (one && typeof one === "object" ? colored(one, colors) : one));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, colored(one, colors, name)]));
    return value;
  }

  function themed(layout, colors) {
    const axis = { gridcolor: colors["@line"], linecolor: colors["@line"], zerolinecolor: colors["@line"], fixedrange: true };
    const found = {
      ...colored(layout, colors), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colors["@ink"] },
      hoverlabel: { bgcolor: colors["@surface"], bordercolor: colors["@muted"], font: { color: colors["@ink"] } },
    };
    for (const name of ["xaxis", "yaxis"]) found[name] = { ...axis, ...found[name] };
    return found;
  }

  const config = { responsive: true, displayModeBar: false, displaylogo: false, showTips: false };

  function draw(name) {
    const colors = theme();
    return Plotly.react(name, colored(specs[name].data, colors), themed(specs[name].layout, colors), config);
  }

  // --- the map ---------------------------------------------------------------------------------------------------------------------
  const choice = document.getElementById("map-choice");
  let hover = null;

  function words(one, i) {
    const value = one.values[i];
    return one.names.length ? one.names[value] : value < 0 ? "none" : value.toLocaleString("en");
  }

  function hovers() {
    hover ??= map.users.map((user, i) => `<b>User ${user}</b><br>` + map.choices.map((one) => `${one.title}: ${words(one, i)}`).join("<br>"));
    return hover;
  }

  function points(rows, marker, name) {
    const text = hovers();
    return {
      type: "scattergl", mode: "markers", name, showlegend: Boolean(name), hovertemplate: "%{text}<extra></extra>",
      x: rows.map((i) => map.x[i]), y: rows.map((i) => map.y[i]), text: rows.map((i) => text[i]), marker,
    };
  }

  function byNumber(one, all, size, colors) {
    const known = all.filter((i) => one.values[i] >= 0);
    const values = known.map((i) => Math.log10(1 + one.values[i]));
    const most = Math.max(0, ...[10 ** values.reduce((a, b) => Math.max(a, b), 0) - 1]);
    const ticks = [0, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6].filter((tick) => tick <= most * 1.01);
    const bar = {
      orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left", len: 1, thickness: 10, outlinewidth: 0, xpad: 0,
      tickvals: ticks.map((tick) => Math.log10(1 + tick)), ticktext: ticks.map((tick) => tick.toLocaleString("en")),
    };
    const traces = [points(known, { color: values, colorscale: colors["@scale"], colorbar: bar, size, opacity: 0.8 }, "")];
    const rest = all.filter((i) => one.values[i] < 0);
    if (rest.length) traces.push(points(rest, { color: colors["@muted"], symbol: "x", size, opacity: 0.8 }, "none"));
    return traces;
  }

  function byName(one, all, size, colors) {
    const found = one.names.map((name, place) => {
      const rows = all.filter((i) => one.values[i] === place);
      const last = place === one.names.length - 1 && place > 6;
      const color = last ? colors["@muted"] : colors["@c" + (place % 8)];
      const trace = points(rows, { color, symbol: SYMBOLS[place % 8], size: size + 1, opacity: 0.8 }, `${name} (${rows.length.toLocaleString("en")})`);
      return { ...trace, legendrank: place + 1 };
    });
    return found.filter((trace) => trace.x.length).sort((a, b) => b.x.length - a.x.length); // the rare on top of the many
  }

  function drawMap() {
    const colors = theme();
    const one = map.choices[Number(choice.value)];
    const all = map.users.map((_, i) => i);
    const size = all.length > 20000 ? 3 : all.length > 5000 ? 4 : 6;
    const traces = one.names.length ? byName(one, all, size, colors) : byNumber(one, all, size, colors);
    const bare = { showticklabels: false, zeroline: false, fixedrange: coarse.matches };
    const layout = themed({
      height: Math.min(640, Math.max(420, innerWidth * 0.9)) + (innerWidth < 640 ? 20 * one.names.length : 0), margin: { l: 30, r: 8, t: 8, b: 34 }, hovermode: "closest",
      dragmode: coarse.matches ? false : "zoom", legend: { orientation: "h", y: -0.09, yanchor: "top", x: 0, itemsizing: "constant" },
      xaxis: bare, yaxis: bare,
      annotations: [
        { text: map.axes[0], showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0, yanchor: "top", yshift: -6 },
        { text: map.axes[1], showarrow: false, xref: "paper", yref: "paper", x: 0, y: 0.5, xanchor: "right", xshift: -6, textangle: -90 },
      ],
    }, colors);
    return Plotly.react("map-chart", traces, layout, { ...config, displayModeBar: !coarse.matches && "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "toImage"] });
  }

  // --- when -------------------------------------------------------------------------------------------------------------------------
  async function drawAll() {
    for (const name of Object.keys(specs)) {
      await draw(name);
      await new Promise((go) => setTimeout(go)); // let the reader scroll meanwhile
    }
    if (choice) await drawMap();
    root.dataset.drawn = isDark() ? "dark" : "light"; // for whoever waits for it
  }

  if (choice) choice.addEventListener("change", drawMap);
  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; one.dataset.opened = ""; }
    for (const name of Object.keys(specs)) draw(name);
    if (choice) drawMap();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.theme;
    for (const one of document.querySelectorAll("details[data-opened]")) { one.open = false; delete one.dataset.opened; }
    drawAll();
  });
  drawAll();
})();
