"use strict";

// Airflow shows this page in a frame of the same origin. Its document tells the theme, and follows links that the
// frame's sandbox would block.
const airflow = (() => {
  try {
    return window.parent !== window ? window.parent.document : null;
  } catch {
    return null;
  }
})();

if (airflow) {
  const root = airflow.documentElement;
  const follow = () => {
    const theme = root.dataset.theme || ["dark", "light"].find((name) => root.classList.contains(name));
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    const color = getComputedStyle(airflow.body).backgroundColor;
    if (/^rgb\(/.test(color)) document.documentElement.style.setProperty("--page", color);
  };
  follow();
  new MutationObserver(follow).observe(root, { attributes: true });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.out");
    if (!link || event.button !== 0) return;
    event.preventDefault();
    const copy = airflow.createElement("a");
    copy.href = link.href;
    copy.rel = "noopener noreferrer";
    if (link.target === "_blank" || event.ctrlKey || event.metaKey || event.shiftKey) copy.target = "_blank";
    airflow.body.append(copy);
    copy.click();
    copy.remove();
  });
}

const seconds = Number(document.body.dataset.reload);
if (seconds) {
  setInterval(() => {
    if (document.visibilityState === "visible" && !String(getSelection())) location.reload();
  }, seconds * 1000);
}
