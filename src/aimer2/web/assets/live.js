// Keeps the marked parts of a page as they are at the server. `data-live` names a stream of server-sent events; each event is named after
// an element's id and holds the element's new content, made and escaped at the server. Without this script the page is complete, but stands still.

function put(element, html) {
  const open = [...element.querySelectorAll("details[open][id]")].map((each) => each.id);
  const held = element.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...element.querySelectorAll(".wide")].map((each) => [each.scrollLeft, each.scrollTop]);
  element.innerHTML = html;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  element.querySelectorAll(".wide").forEach((each, place) => each.scrollTo(...(scrolled[place] ?? [0, 0])));
  if (held) document.getElementById(held)?.focus();
}

for (const root of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(root.dataset.live);
  for (const part of root.querySelectorAll("[data-part]")) {
    source.addEventListener(part.id, (event) => put(part, event.data));
  }
  // The server says that nothing more will come; the page may look different now, as a whole.
  source.addEventListener("end", (event) => {
    source.close();
    if (event.data === "reload") location.reload();
  });
  addEventListener("pagehide", () => source.close());
}
