// The second tab: restores uploaded files.

import { $, Photo, ask, notice, send, slider } from "./parts.js";

const KEY = "anchorface-job";
const POLL_MS = 700;

export class Files {
  constructor() {
    this.file = null;
    this.job = null;
    this.sending = null;
    this.photo = new Photo($("file-photo"));
    slider($("file-strength"), $("file-strength-value"));
    $("upload").addEventListener("change", () => this.take($("upload").files[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      $("drop").addEventListener(kind, (event) => {
        event.preventDefault();
        $("drop").classList.toggle("over", kind === "dragover");
        if (kind === "drop") this.take(event.dataTransfer.files[0]);
      });
    }
    $("give").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    $("cancel").addEventListener("click", () => this.cancel());
  }

  open(about) {
    this.about = about;
    const known = sessionStorage.getItem(KEY);
    if (known && !this.job) this.follow(known);
  }

  take(file) {
    if (!file) return;
    const most = this.about.most_upload_bytes;
    this.file = null;
    notice($("file-notice"), "");
    if (file.size > most) {
      notice($("file-notice"), `${file.name} is larger than ${size(most)}, the limit of this page.`, "error");
    } else if (!file.size) {
      notice($("file-notice"), `${file.name} is empty.`, "error");
    } else {
      this.file = file;
    }
    $("drop-title").textContent = this.file ? file.name : "Choose a video or a photo";
    $("drop-more").textContent = this.file ? size(file.size) : "or drop it here";
    $("send").disabled = !this.file;
  }

  async send() {
    const query = new URLSearchParams({
      restorer: $("file-restorer").value,
      strength: $("file-strength").value / 100,
      compare: $("compare").checked,
      photo: this.photo.id,
    });
    notice($("file-notice"), "");
    this.show({ name: this.file.name, state: "sending" }, 0);
    this.sending = send("jobs?" + query, this.file, (share) => {
      this.show({ name: this.file.name, state: share < 1 ? "sending" : "inspecting" }, share);
    });
    try {
      const job = await this.sending.done;
      sessionStorage.setItem(KEY, job.job);
      this.follow(job.job);
    } catch (error) {
      $("job").hidden = true;
      $("give").hidden = false;
      if (error.status !== -1) notice($("file-notice"), error.message, "error");
    } finally {
      this.sending = null;
    }
  }

  async follow(id) {
    this.job = id;
    while (this.job === id) {
      let job;
      try {
        job = await ask("jobs/" + id);
        notice($("file-notice"), "");
      } catch (error) {
        if (error.status === 404 || error.status === 401) return this.forget();
        notice($("file-notice"), error.message + " Trying again.", "fair");
        await pause(3 * POLL_MS);
        continue;
      }
      if (this.job !== id) return;
      this.show(job, job.total ? job.frames / job.total : null);
      if (job.state === "done" || job.state === "failed") return;
      await pause(POLL_MS);
    }
  }

  show(job, share) {
    $("give").hidden = true;
    $("job").hidden = false;
    $("job").dataset.state = job.state;
    $("job-name").textContent = job.name;
    $("job-state").textContent = describe(job, share);
    const over = job.state === "done" || job.state === "failed";
    $("job-bar").hidden = over;
    if (share === null || share === undefined || job.state === "waiting" || job.state === "inspecting") {
      $("job-bar").removeAttribute("value");
    } else {
      $("job-bar").value = share;
    }
    $("cancel").textContent = over ? "Restore another file" : "Cancel";
    $("save").hidden = job.state !== "done";
    $("result").hidden = true;
    const warnings = job.warnings || [];
    $("job-warnings").hidden = !warnings.length;
    $("job-warnings").replaceChildren(...warnings.map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    }));
    if (job.state === "done") this.preview(job);
  }

  preview(job) {
    $("save").href = job.result;
    $("save").download = job.result_name;
    $("save").textContent = `Save the result (${size(job.result_bytes)})`;
    const view = document.createElement(job.is_photo ? "img" : "video");
    view.src = job.result + "&inline";
    if (job.is_photo) view.alt = "The restored photo";
    else Object.assign(view, { controls: true, muted: true, loop: true, autoplay: true, playsInline: true });
    // Formats that browsers cannot show can still be saved.
    view.addEventListener(job.is_photo ? "load" : "loadedmetadata", () => {
      const [width, height] = [view.videoWidth || view.naturalWidth, view.videoHeight || view.naturalHeight];
      $("result").style.setProperty("--shape", `${width} / ${height}`);
      $("result").hidden = false;
    });
    $("result").replaceChildren(view);
  }

  async cancel() {
    if (this.sending) return this.sending.stop();
    const id = this.job;
    $("cancel").disabled = true;
    try {
      if (id) await ask("jobs/" + id, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404) notice($("file-notice"), error.message, "error");
    }
    $("cancel").disabled = false;
    this.forget();
  }

  forget() {
    this.job = null;
    sessionStorage.removeItem(KEY);
    $("result").replaceChildren();
    $("job").hidden = true;
    $("give").hidden = false;
    $("upload").value = "";
  }
}

function describe(job, share) {
  switch (job.state) {
    case "sending": return `Sending … ${Math.round(100 * (share || 0))} %`;
    case "inspecting": return "Inspecting the file …";
    case "waiting": return job.place > 1 ? `Waiting; ${job.place} files are ahead.` : "Waiting for its turn …";
    case "failed": return job.error.charAt(0).toUpperCase() + job.error.slice(1) + ".";
    case "running":
      if (!job.frames) return "Loading the restorer …";
      return [
        `Restoring: frame ${job.frames}` + (job.total ? ` of ${job.total}` : ""),
        `${job.frames_per_second} per second`,
        ...(job.seconds_left ? [`about ${clock(job.seconds_left)} left`] : []),
      ].join(", ");
    default: {
      if (!job.faces) return "Done. No face was found; the pictures are unchanged.";
      const people = job.people === 1 ? "1 person" : `${job.people} people`;
      const held = job.held_back ? ` ${job.held_back} faces were left unrestored because they no longer resembled the person.` : "";
      return `Done. ${job.restored} of ${job.faces} faces were restored (${people}, ${job.frames} ${job.is_photo ? "photo" : "frames"}).${held}`;
    }
  }
}

function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let place = 0;
  while (bytes >= 1000 && place < 3) { bytes /= 1000; place += 1; }
  return `${bytes < 10 && place ? bytes.toFixed(1) : Math.round(bytes)} ${units[place]}`;
}

function clock(seconds) {
  return seconds < 90 ? `${seconds} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
