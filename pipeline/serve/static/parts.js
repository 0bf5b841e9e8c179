// Small parts of the page that both tabs use.

import { send } from "./talk.js";

export const $ = (id) => document.getElementById(id);

/** A sentence above or below what it is about; empty hides it. `act` adds a button: [its words, what it does]. */
export function notice(element, text, kind = "", act = null) {
  element.className = "notice " + kind;
  element.hidden = !text;
  element.textContent = text;
  if (act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = act[0];
    button.addEventListener("click", act[1]);
    element.append(button);
  }
}

/** A slider in percent that tells its value. */
export function slider(input, told, change = () => {}) {
  const show = () => { told.textContent = input.value + " %"; };
  input.addEventListener("input", () => { show(); change(input.value / 100); });
  show();
}

export const RESTORERS = {
  fast: "fast – quick and natural",
  iconface: "iconface – slower, for strong damage",
  none: "none – only find and follow",
};

export function fill(select, names) {
  select.replaceChildren(...names.map((name) => new Option(RESTORERS[name] || name, name)));
}

/** A place for a reference photo; `change` hears its id, or "" when it is taken away. */
export class Photo {
  id = "";

  constructor(box, change = () => {}) {
    this.box = box;
    this.change = change;
    this.draw();
  }

  draw(name = "", url = "", problem = "") {
    const title = document.createElement("span");
    title.textContent = "Reference photo – one clear face of the same person (optional)";
    const row = document.createElement("div");
    row.className = "row";
    if (url) {
      const picture = new Image();
      picture.src = url;
      picture.alt = "";
      row.append(picture);
    }
    const words = document.createElement("span");
    words.className = "name";
    words.textContent = name;
    const label = document.createElement("label");
    label.className = "button";
    const input = document.createElement("input");
    input.type = "file";
    input.accept = "image/*";
    input.addEventListener("change", () => input.files[0] && this.give(input.files[0]));
    label.append(this.id ? "Another" : "Choose a photo", input);
    row.append(...(name ? [words] : []), label);
    if (this.id) {
      const away = document.createElement("button");
      away.type = "button";
      away.textContent = "Remove";
      away.addEventListener("click", () => { this.id = ""; this.draw(); this.change(""); });
      row.append(away);
    }
    const told = document.createElement("p");
    notice(told, problem, "error");
    told.setAttribute("role", "status");
    this.box.replaceChildren(title, row, told);
  }

  async give(file) {
    this.draw(file.name + " is being looked at …");
    try {
      const found = await send("photos", file).done;
      this.id = found.photo;
      // The page may show pictures of its own and data: addresses only, so the photo is drawn small.
      this.draw(found.name, await thumbnail(file));
      this.change(this.id);
    } catch (error) {
      this.draw("", "", error.message);
    }
  }
}

async function thumbnail(file) {
  try {
    const picture = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    const side = Math.min(picture.width, picture.height);
    canvas.width = canvas.height = 88;
    canvas.getContext("2d").drawImage(
      picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, 88, 88);
    return canvas.toDataURL("image/jpeg", 0.8);
  } catch {
    return "";  // a kind of picture that this browser cannot show, though the program can
  }
}
