const { metrics, videos } = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#rows tr")];
let selected = null;

function clipUrl(role, number) {
  const text = element(`${role}-${number}`).textContent;
  const bytes = Uint8Array.fromBase64 // faster, where there is it
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
}

function shape(video) {
  const screens = element("players");
  screens.style.setProperty("--shape", video.width / video.height);
  screens.style.setProperty("--wide", (video.width + (video.width % 2)) / video.width);
  screens.style.setProperty("--high", (video.height + (video.height % 2)) / video.height);
  screens.classList.toggle("coarse", Math.max(video.width, video.height) <= 96);
}

function facts(video) {
  const count = video.frames === 1 ? "1 frame" : `${video.frames} frames`;
  return `${video.width} × ${video.height}, ${count}, ${Number(video.fps.toFixed(3))} fps`;
}

/** Say something about the players; "" says nothing. */
function note(text) {
  element("note").textContent = text;
  element("note").hidden = !text;
}

function select(number) {
  const video = videos[number];
  if (!video || video === selected) return;
  players.pause();
  selected = video;
  for (const row of rows) {
    if (Number(row.dataset.video) === number) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  element("name").textContent = video.name;
  element("facts").textContent = facts(video);
  element("players").hidden = element("transport").hidden = !video.playable;
  note(
    video.playable === video.frames ? "" : video.playable
      ? `The players hold the first ${video.playable} of ${video.frames} frames: the page has room for no more. The charts hold all.`
      : "No players: the page has room for the worst videos only.",
  );
  shape(video);
  drawCharts();
  const urls = video.playable ? players.screens.map((screen) => clipUrl(screen.id, number)) : [];
  players.load(urls, video.playable, video.fps);
  element("scrubber").max = Math.max(video.playable - 1, 0);
  for (const id of ["back", "play", "forth", "scrubber"]) element(id).disabled = video.playable < 2;
  update();
}

function drawCharts() {
  for (const chart of charts) chart.show(selected.scores[chart.metric.key], selected.playable);
}

function update() {
  if (!selected) return;
  const frame = players.frame;
  element("scrubber").value = frame;
  element("position").textContent = `frame ${frame} / ${Math.max(players.frames - 1, 0)} · ${(frame / selected.fps).toFixed(2)} s`;
  element("play").classList.toggle("playing", players.playing);
  element("play").setAttribute("aria-label", players.playing ? "Pause" : "Play");
  for (const chart of charts) chart.mark(frame);
}

/** Select the row that is so many below the selected one. */
function move(count) {
  const shown = [...element("rows").children];
  const place = shown.findIndex((row) => row.hasAttribute("aria-current"));
  const row = shown[clamp(place + count, 0, shown.length - 1)];
  select(Number(row.dataset.video));
  row.scrollIntoView({ block: "nearest" });
}

/** Sort the rows by a column: worst first, and the other way round where they are so already. */
function sort(head) {
  const other = { ascending: "descending", descending: "ascending" };
  const direction = head.getAttribute("aria-sort") === head.dataset.first ? other[head.dataset.first] : head.dataset.first;
  const column = head.cellIndex;
  const { compare } = new Intl.Collator(undefined, { numeric: true });
  const difference = column === 0 ? compare : (a, b) => a - b;
  const sign = direction === "ascending" ? 1 : -1;
  for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const valued = rows.map((row) => ({ row, value: row.cells[column].dataset.value }));
  // Those without a value are last, whatever the order.
  valued.sort((a, b) => (a.value === "") - (b.value === "") || sign * difference(a.value, b.value));
  element("rows").append(...valued.map(({ row }) => row));
}

const KEYS = {
  " ": () => (players.playing ? players.pause() : players.play()),
  ArrowLeft: () => players.step(-1),
  ArrowRight: () => players.step(1),
  ArrowUp: () => move(-1),
  ArrowDown: () => move(1),
  Home: () => players.step(-Infinity),
  End: () => players.step(Infinity),
};

function pressed(event) {
  const target = event.target;
  const own = event.key === " " ? "button, summary, select, [type=checkbox]" : "select, [type=range]";
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey || target.closest(own)) return;
  event.preventDefault();
  KEYS[event.key]();
}

const players = new Players([...document.querySelectorAll("#players video")], update);
const charts = [...document.querySelectorAll("#charts figure")].map(
  (figure) => new Chart(figure, metrics.find((metric) => metric.key === figure.dataset.metric), (frame) => { players.pause(); players.seek(frame); }),
);

function start() {
  for (const head of document.querySelectorAll("th")) head.firstElementChild.addEventListener("click", () => sort(head));
  if (!videos.length) return;
  element("play").addEventListener("click", KEYS[" "]);
  element("back").addEventListener("click", KEYS.ArrowLeft);
  element("forth").addEventListener("click", KEYS.ArrowRight);
  element("previous").addEventListener("click", KEYS.ArrowUp);
  element("following").addEventListener("click", KEYS.ArrowDown);
  element("scrubber").addEventListener("input", (event) => players.seek(Number(event.target.value)));
  element("loop").addEventListener("change", (event) => { players.loop = event.target.checked; });
  element("speed").addEventListener("change", (event) => {
    players.rate = Number(event.target.value);
    for (const screen of players.screens) screen.playbackRate = players.rate;
  });
  // A click leaves the focus, and with it the space bar, where it was.
  for (const node of document.querySelectorAll("button")) {
    node.addEventListener("mousedown", (event) => event.preventDefault());
  }
  for (const node of document.querySelectorAll("#loop, #speed")) {
    node.addEventListener("change", () => node.matches(":focus-visible") || node.blur());
  }
  for (const screen of players.screens) {
    screen.addEventListener("error", () => note("This browser cannot play the clips: they are H.264 in MP4."));
  }
  for (const row of rows) row.addEventListener("click", () => select(Number(row.dataset.video)));
  document.addEventListener("keydown", pressed);
  new ResizeObserver(() => { drawCharts(); update(); }).observe(element("charts"));
  addEventListener("hashchange", () => select(linked()));
  select(videos[linked()] ? linked() : 0);
}

/** The video that the address names, as in report.html#video-3. */
function linked() {
  return Number((location.hash.match(/^#video-(\d+)$/) ?? [])[1]);
}

start();
