// The first tab: one's own camera before and after.

import { $, Photo, notice, slider } from "./parts.js";
import { ask } from "./talk.js";
import { Figures } from "./figures.js";

const STEPS = {
  "full": "Everything is done for each frame",
  "detect less": "Faces are sought less often: time is short",
  "fast": "The quick restorer stands in: time is short",
  "smaller crop": "Faces are restored in less detail: time is short",
  "reuse": "Restored faces are carried on and take turns: time is short",
  "one face": "The largest face alone is restored: time is short",
  "bypass": "Frames pass as they came: this machine is too slow for more",
};
const RETRY_MS = [1000, 2000, 4000, 8000];

export class Camera {
  constructor() {
    this.stream = null;
    this.connection = null;
    this.channel = null;
    this.peer = null;
    this.bypassed = false;
    this.tries = 0;
    this.figures = new Figures();
    this.photo = new Photo($("camera-photo"), (id) => this.tell({ photo: id }));
    slider($("strength"), $("strength-told"), (strength) => this.tell({ strength }));
    $("restorer").addEventListener("change", () => this.tell({ restorer: $("restorer").value }));
    $("device").addEventListener("change", () => this.stream && this.restart());
    $("start").addEventListener("click", () => (this.stream ? this.stop() : this.start()));
    $("bypass").addEventListener("click", () => this.bypass(!this.bypassed));
    document.addEventListener("keydown", (event) => {
      const writing = event.target.matches("input[type=text], textarea, select");
      if (event.key.toLowerCase() !== "b" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (!$("bypass").disabled) this.bypass(!this.bypassed);
    });
    window.addEventListener("pagehide", () => this.leave());
    window.addEventListener("pageshow", (event) => event.persisted && this.stream && this.restart());
    this.state("off");
  }

  open(about) {
    this.about = about;
  }

  /** off, asking, connecting, on, lost */
  state(name) {
    document.body.dataset.camera = name;
    const on = name !== "off";
    $("start").textContent = on ? "Stop the camera" : "Start the camera";
    $("start").classList.toggle("primary", !on);
    $("bypass").disabled = name !== "on";
    $("before-hint").hidden = Boolean(this.stream);
    $("after-hint").hidden = name === "on";
    $("after-hint").textContent = {
      off: "And here, with its faces restored.", asking: "Waiting for your permission …",
      connecting: "Connecting …", lost: "The connection is lost; trying again …",
    }[name] || "";
    if (name !== "on") $("badge").hidden = true;
  }

  async start() {
    if (!navigator.mediaDevices) {
      return notice($("camera-notice"), "Browsers give their camera only to pages on this machine or by https. "
        + "See --certificate of python -m pipeline serve. Files can be restored all the same.", "error");
    }
    this.state("asking");
    notice($("camera-notice"), "");
    const device = $("device").value;
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: {
          width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30, max: 30 },
          ...(device ? { deviceId: { exact: device } } : {}),
        },
      });
    } catch (error) {
      this.stop();
      return notice($("camera-notice"), reason(error), "error", ["Try again", () => this.start()]);
    }
    const [track] = this.stream.getVideoTracks();
    track.contentHint = "detail";
    track.addEventListener("ended", () => {
      this.stop();
      notice($("camera-notice"), "The camera has gone.", "error", ["Try again", () => this.start()]);
    });
    $("before").srcObject = this.stream;
    const { width, height, facingMode } = track.getSettings();
    if (width && height) for (const screen of document.querySelectorAll(".stage .screen")) {
      screen.style.setProperty("--shape", `${width} / ${height}`);
    }
    // People know themselves from the mirror.
    for (const id of ["before", "after"]) $(id).classList.toggle("mirrored", facingMode === "user");
    this.listDevices(track.getSettings().deviceId);
    this.tries = 0;
    await this.connect();
  }

  async restart() {
    this.stop();
    await this.start();
  }

  stop() {
    this.leave();
    for (const track of this.stream ? this.stream.getTracks() : []) track.stop();
    this.stream = null;
    clearTimeout(this.retry);
    $("before").srcObject = $("after").srcObject = null;
    this.figures.clear();
    notice($("camera-notice"), "");
    this.bypass(false);
    this.state("off");
  }

  /** Says goodbye, so that the place is free for others at once. */
  leave() {
    if (this.peer) ask("peers/" + this.peer, { method: "DELETE", keepalive: true }).catch(() => {});
    this.peer = null;
    this.figures.watch(null);
    if (this.connection) this.connection.close();
    this.connection = this.channel = null;
  }

  async connect() {
    this.leave();
    this.state("connecting");
    const connection = this.connection = new RTCPeerConnection();
    const [track] = this.stream.getVideoTracks();
    const sender = connection.addTrack(track, this.stream);
    preferH264(connection);
    this.channel = connection.createDataChannel("wishes");
    this.channel.addEventListener("message", (event) => this.hear(JSON.parse(event.data)));
    connection.addEventListener("track", (event) => {
      // The newest picture, not the smoothest film.
      if ("jitterBufferTarget" in event.receiver) event.receiver.jitterBufferTarget = 0;
      $("after").srcObject = new MediaStream([event.track]);
    });
    connection.addEventListener("connectionstatechange", () => {
      if (connection !== this.connection) return;
      if (connection.connectionState === "connected") this.connected(connection, sender);
      if (["failed", "closed"].includes(connection.connectionState)) this.lost();
    });
    this.channel.addEventListener("close", () => connection === this.connection && this.lost());
    try {
      await connection.setLocalDescription();
      await gathered(connection);
      const answer = await ask("peers", { method: "POST", body: {
        sdp: connection.localDescription.sdp,
        rate: track.getSettings().frameRate || 30,
        restorer: $("restorer").value,
        strength: $("strength").value / 100,
        photo: this.photo.id,
        bypass: this.bypassed,
      } });
      if (connection !== this.connection) return;
      this.peer = answer.peer;
      await connection.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    } catch (error) {
      if (connection !== this.connection) return;
      // Where this is another try, the place may still be held by the one before.
      if ([0, 503].includes(error.status) && this.tries) return this.lost();
      this.stop();
      notice($("camera-notice"), error.message || String(error), error.status === 503 ? "fair" : "error",
        ["Try again", () => this.start()]);
    }
  }

  async connected(connection, sender) {
    this.tries = 0;
    this.state("on");
    notice($("camera-notice"), "");
    this.figures.watch(connection);
    // Encoders would rather take the picture apart than use what they may.
    const parameters = sender.getParameters();
    if (!parameters.encodings || !parameters.encodings.length) return;
    parameters.encodings[0].maxBitrate = 1000 * this.about.most_kilobits;
    parameters.degradationPreference = "maintain-resolution";
    await sender.setParameters(parameters).catch(() => {});
  }

  lost() {
    if (!this.stream || document.body.dataset.camera === "lost") return;
    this.leave();
    this.state("lost");
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    notice($("camera-notice"), "The connection to the program is lost. It is tried again by itself.", "fair");
    this.retry = setTimeout(() => this.connect(), wait);
  }

  tell(wish) {
    if (this.channel && this.channel.readyState === "open") this.channel.send(JSON.stringify(wish));
  }

  bypass(on) {
    this.bypassed = on;
    $("bypass").setAttribute("aria-pressed", on);
    $("after-caption").textContent = on ? "the original, as it came" : "restored";
    this.tell({ bypass: on });
  }

  hear(status) {
    this.figures.show(status);
    $("badge").hidden = false;
    $("badge").textContent = status.bypass ? "original" : !status.ready ? "getting ready …"
      : "";
    $("badge").hidden = !$("badge").textContent;
    $("step").textContent = !status.ready ? (status.problem ? "Frames pass as they came" : "The restorer is getting ready")
      : status.restorer === "none" ? "Faces are found and followed only" : STEPS[status.step] || status.step || "–";
    notice($("camera-notice"), status.problem ? status.problem + (status.problem.endsWith(".") ? "" : ".") : "", "error");
  }

  async listDevices(current) {
    const found = (await navigator.mediaDevices.enumerateDevices()).filter((each) => each.kind === "videoinput");
    $("device").replaceChildren(...found.map((each, place) => new Option(each.label || "Camera " + (place + 1), each.deviceId)));
    $("device").value = current || "";
  }
}

function reason(error) {
  switch (error.name) {
    case "NotAllowedError": return "The browser may not use the camera. Allow it beside the page's address, and try again.";
    case "NotFoundError": return "No camera was found on this device.";
    case "OverconstrainedError": return "This camera is not there any more; choose another one.";
    case "NotReadableError": return "The camera cannot be opened; perhaps another program uses it.";
    default: return "The camera cannot be used: " + error.message;
  }
}

/** H.264 first: it is what the program sends best. What it wants to be sent, its answer says. */
function preferH264(connection) {
  const capabilities = RTCRtpSender.getCapabilities && RTCRtpSender.getCapabilities("video");
  const [transceiver] = connection.getTransceivers();
  if (!capabilities || !transceiver.setCodecPreferences) return;
  const first = (codec) => Number(codec.mimeType.toLowerCase() !== "video/h264");
  try {
    transceiver.setCodecPreferences([...capabilities.codecs].sort((a, b) => first(a) - first(b)));
  } catch { /* the usual order will do */ }
}

/** Addresses of this machine are there at once; nobody waits for others. */
function gathered(connection) {
  if (connection.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    connection.addEventListener("icegatheringstatechange", () => connection.iceGatheringState === "complete" && resolve());
    setTimeout(resolve, 1500);
  });
}
