// Requests to the program behind the page, with the token that the address brought.

const KEY = "anchorface-token";

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** Takes the token out of the address, so that nobody sees it over a shoulder or in a shared screen. */
export function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    keepToken(given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEY) || "";
}

export function keepToken(text) {
  sessionStorage.setItem(KEY, text.trim().split("#").pop());
}

function headers(more = {}) {
  return { Authorization: "Bearer " + (sessionStorage.getItem(KEY) || ""), ...more };
}

/** The answer of the program as an object. Throws Refused with its sentence. */
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
    throw new Refused(0, "The program behind this page does not answer. Is it still running?");
  }
  return read(answer.status, await answer.text());
}

/** Sends a file as it is; `progress` hears the share that is there. The `stop` of the result gives it up. */
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
    request.onerror = () => reject(new Refused(0, "The file could not be sent; is the program still running?"));
    request.onabort = () => reject(new Refused(-1, "Given up."));
    request.send(file);
  });
  return { done, stop: () => request.abort() };
}

function read(status, text) {
  let values = {};
  try { values = JSON.parse(text); } catch { /* told below */ }
  if (status >= 200 && status < 300) return values;
  throw new Refused(status, sentence(values.error || "the program answered with an error (" + status + ")"));
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
