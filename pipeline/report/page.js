"use strict";
for (const range of document.querySelectorAll(".slider input")) {
  range.addEventListener("input", () => range.parentElement.style.setProperty("--at", range.value + "%"));
}
