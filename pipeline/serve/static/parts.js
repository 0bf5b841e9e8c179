// Parts of both tabs: requests with the token, notices, sliders and reference photos.

export const $ = (id) => document.getElementById(id);

const TOKEN_KEY = "anchorface-token";

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** Removes the token from the address, so that it is not visible on a shared screen. */
export function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    keepToken(given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(TOKEN_KEY) || "";
}

export function keepToken(text) {
  sessionStorage.setItem(TOKEN_KEY, text.trim().split("#").pop());
}

function headers(more = {}) {
  return { Authorization: "Bearer " + (sessionStorage.getItem(TOKEN_KEY) || ""), ...more };
}

/** The program's answer as an object. Throws Refused with its message. */
export async function ask(path, { method = "GET", body, keepalive = false, patience = 20000 } = {}) {
  let answer;
  try {
    answer = await fetch("/api/" + path, {
      method, keepalive,
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    throw new Refused(0, "The program behind this page does not answer. Check that it is running.");
  }
  return read(answer.status, await answer.text());
}

/** Uploads a file; `progress` gets the share sent. `stop` of the result aborts it. */
export function send(path, file, progress = () => {}) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.open("POST", "/api/" + path);
    for (const [name, value] of Object.entries(headers({ "X-File-Name": encodeURIComponent(file.name) }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      try { resolve(read(request.status, request.responseText)); } catch (error) { reject(error); }
    };
    request.onerror = () => reject(new Refused(0, "The file could not be sent. Check that the program is running."));
    request.onabort = () => reject(new Refused(-1, "Cancelled."));
    request.send(file);
  });
  return { done, stop: () => request.abort() };
}

function read(status, text) {
  let values = {};
  try { values = JSON.parse(text); } catch { /* reported below */ }
  if (status >= 200 && status < 300) return values;
  throw new Refused(status, sentence(values.error || "the program answered with an error (" + status + ")"));
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Shows a message in `element`; an empty one hides it. `act` adds a button: [label, action]. */
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

/** A slider in percent with its value in `output`. */
export function slider(input, output, change = () => {}) {
  const show = () => { output.textContent = input.value + " %"; };
  input.addEventListener("input", () => { show(); change(input.value / 100); });
  show();
}

export const RESTORERS = {
  aligned: "aligned – best quality, too slow for a camera",
  fast: "fast – quick and natural",
  iconface: "iconface – slower, for severe degradation",
  none: "none – only detect and track",
};

export function fill(select, names) {
  select.replaceChildren(...names.map((name) => new Option(RESTORERS[name] || name, name)));
}

/** A field for a reference photo; `change` gets its id, or "" when it is removed. */
export class Photo {
  id = "";

  constructor(box, change = () => {}) {
    this.box = box;
    this.change = change;
    this.draw();
  }

  draw(name = "", url = "", problem = "") {
    const title = document.createElement("span");
    title.textContent = "Reference photo – one sharp face of the same person (optional)";
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
    input.addEventListener("change", () => input.files[0] && this.upload(input.files[0]));
    label.append(this.id ? "Choose another" : "Choose a photo", input);
    row.append(...(name ? [words] : []), label);
    if (this.id) {
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "Remove";
      remove.addEventListener("click", () => { this.id = ""; this.draw(); this.change(""); });
      row.append(remove);
    }
    const status = document.createElement("p");
    notice(status, problem, "error");
    status.setAttribute("role", "status");
    this.box.replaceChildren(title, row, status);
  }

  async upload(file) {
    this.draw(file.name + " is being inspected …");
    try {
      const found = await send("photos", file).done;
      this.id = found.photo;
      // The page may show only its own pictures and data: addresses, so a thumbnail is drawn.
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
    return "";  // a format that the program reads, but this browser cannot show
  }
}
