// The page: its tabs, and the form for the token.

import { Camera } from "./camera.js";
import { Files } from "./files.js";
import { $, ask, fill, keepToken, notice, takeToken } from "./parts.js";

const tabs = [$("tab-camera"), $("tab-file")];

function choose(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -place, End: tabs.length - 1 - place }[event.key];
    if (step === undefined) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
    event.preventDefault();
  });
}

async function open() {
  let about;
  try {
    about = await ask("about");
  } catch (error) {
    const barred = error.status === 401;
    $("door").hidden = !barred;
    document.querySelector("main").hidden = true;
    if (barred && $("door-token").value) $("door-reason").textContent = "This is not the token of the running program.";
    if (!barred) {
      document.querySelector("main").hidden = false;
      notice($("camera-notice"), error.message, "error", ["Try again", open]);
    }
    return;
  }
  $("door").hidden = true;
  document.querySelector("main").hidden = false;
  notice($("camera-notice"), "");
  $("version").textContent = about.version;
  for (const id of ["restorer", "file-restorer"]) fill($(id), about.restorers);
  for (const id of ["strength", "file-strength"]) {
    $(id).value = Math.round(100 * about.strength);
    $(id).dispatchEvent(new Event("input"));
  }
  camera.open(about);
  files.open(about);
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("door-token").value);
  open();
});

const camera = new Camera();
const files = new Files();
takeToken();
open();
