// The first tab: the camera before and after, and figures of the restoration.

import { $, Photo, ask, notice, slider } from "./parts.js";

const STEPS = {
  "full": "Full restoration of each frame",
  "detect less": "Faces are detected less often to save time",
  "fast": "The fast restorer is used to save time",
  "smaller crop": "Faces are restored at lower resolution to save time",
  "reuse": "Restored faces are reused and restored in turn to save time",
  "one face": "Only the largest face is restored to save time",
  "bypass": "Frames are shown unrestored: this machine is too slow",
};
const RETRY_MS = [1000, 2000, 4000, 8000];
const MEASURE_MS = 1000;

export class Camera {
  constructor() {
    this.stream = null;
    this.connection = null;
    this.channel = null;
    this.peer = null;
    this.bypassed = false;
    this.tries = 0;
    this.figures = new Figures();
    this.photo = new Photo($("camera-photo"), (id) => this.send({ photo: id }));
    slider($("strength"), $("strength-value"), (strength) => this.send({ strength }));
    $("restorer").addEventListener("change", () => this.send({ restorer: $("restorer").value }));
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
      off: "The restored picture will be shown here.", asking: "Waiting for your permission …",
      connecting: "Connecting …", lost: "The connection is lost; trying again …",
    }[name] || "";
    if (name !== "on") $("badge").hidden = true;
  }

  async start() {
    if (!navigator.mediaDevices) {
      return notice($("camera-notice"), "Browsers allow cameras only on pages of this machine or over https. "
        + "See --certificate of python -m pipeline serve. Files can be restored without it.", "error");
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
      notice($("camera-notice"), "The camera was disconnected.", "error", ["Try again", () => this.start()]);
    });
    $("before").srcObject = this.stream;
    const { width, height, facingMode } = track.getSettings();
    if (width && height) for (const screen of document.querySelectorAll(".stage .screen")) {
      screen.style.setProperty("--shape", `${width} / ${height}`);
    }
    // Front cameras are mirrored, as users expect.
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

  /** Disconnects, so that the place is free for others at once. */
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
    this.channel.addEventListener("message", (event) => this.receive(JSON.parse(event.data)));
    connection.addEventListener("track", (event) => {
      // Prefer low delay to smooth playback.
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
      // During a retry the place may still be held by the last connection.
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
    // By default encoders reduce the resolution before they use the full bit rate.
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
    notice($("camera-notice"), "The connection to the program is lost. Trying again.", "fair");
    this.retry = setTimeout(() => this.connect(), wait);
  }

  send(wish) {
    if (this.channel && this.channel.readyState === "open") this.channel.send(JSON.stringify(wish));
  }

  bypass(on) {
    this.bypassed = on;
    $("bypass").setAttribute("aria-pressed", on);
    $("after-caption").textContent = on ? "original" : "restored";
    this.send({ bypass: on });
  }

  receive(status) {
    this.figures.show(status);
    $("badge").hidden = false;
    $("badge").textContent = status.bypass ? "original" : !status.ready ? "loading …" : "";
    $("badge").hidden = !$("badge").textContent;
    $("step").textContent = !status.ready ? (status.problem ? "Frames are shown unrestored" : "The restorer is loading")
      : status.restorer === "none" ? "Faces are only detected and tracked" : STEPS[status.step] || status.step || "–";
    notice($("camera-notice"), status.problem ? status.problem + (status.problem.endsWith(".") ? "" : ".") : "", "error");
  }

  async listDevices(current) {
    const found = (await navigator.mediaDevices.enumerateDevices()).filter((each) => each.kind === "videoinput");
    $("device").replaceChildren(...found.map((each, place) => new Option(each.label || "Camera " + (place + 1), each.deviceId)));
    $("device").value = current || "";
  }
}

/** Delay, frames and drops, measured by the program and the browser. */
class Figures {
  constructor() {
    this.clear();
  }

  clear() {
    this.last = {};
    this.way = null;
    this.status = null;
    this.lostHere = 0;
    for (const id of ["delay", "rate", "drops", "share", "step"]) $(id).textContent = "–";
    $("bits").textContent = "\u00a0";
    $("delay-more").textContent = "camera to screen";
    $("drops-more").textContent = "frames not shown";
  }

  /** Measures `connection` from now on; null stops. */
  watch(connection) {
    clearInterval(this.timer);
    this.last = {};
    if (connection) this.timer = setInterval(() => this.measure(connection), MEASURE_MS);
  }

  /** Delay added by the browser: encoding, decoding, network both ways, and the wait before display. */
  async measure(connection) {
    const now = {};
    let codecs = {};
    for (const report of (await connection.getStats()).values()) {
      if (report.type === "outbound-rtp" && report.kind === "video") {
        Object.assign(now, { up: report.bytesSent, encoded: report.framesEncoded, encoding: report.totalEncodeTime,
          queued: report.totalPacketSendDelay || 0, packets: report.packetsSent });
      } else if (report.type === "inbound-rtp" && report.kind === "video") {
        Object.assign(now, { down: report.bytesReceived, decoded: report.framesDecoded, shown: report.framesDecoded - (report.framesDropped || 0),
          processing: report.totalProcessingDelay || report.totalDecodeTime, lost: report.framesDropped || 0 });
        codecs.id = report.codecId;
      } else if (report.type === "codec") {
        codecs[report.id] = report.mimeType.split("/")[1];
      } else if (report.type === "candidate-pair" && report.nominated) {
        now.trip = report.currentRoundTripTime || 0;
      }
    }
    now.at = performance.now();
    const before = this.last;
    this.last = now;
    if (!before.at) return;
    const of = (total, count) => (now[total] - before[total]) / Math.max(now[count] - before[count], 1) || 0;
    const seconds = (now.at - before.at) / 1000;
    this.way = 1000 * (of("encoding", "encoded") + of("queued", "packets") + now.trip + of("processing", "decoded"));
    this.lostHere = now.lost || 0;
    this.shown = (now.shown - before.shown) / seconds;
    const bits = (name) => (8e-6 * (now[name] - before[name]) / seconds).toFixed(1);
    $("bits").textContent = `${bits("up")} Mbit/s to the program, ${bits("down")} back (${codecs[codecs.id] || "video"})`;
    this.draw();
  }

  show(status) {
    this.status = status;
    this.draw();
  }

  draw() {
    const status = this.status;
    if (!status) return;
    const here = status.delay_ms;
    const known = this.way !== null && status.sent_ms !== null;
    $("delay").textContent = known ? `${Math.round(status.sent_ms + this.way)} ms` : "–";
    $("delay-more").textContent = here === null ? "camera to screen" : `${here} ms of it for restoration; 95th percentile ${status.delay_p95_ms} ms`;
    $("rate").textContent = this.shown === undefined ? "–" : `${this.shown.toFixed(0)}`;
    $("rate-more").textContent = `of ${status.rate_in.toFixed(0)} from the camera`;
    $("drops").textContent = String(status.dropped + status.unsent + this.lostHere);
    $("drops-more").textContent = status.late ? `${status.late} more were shown unrestored` : "frames not shown";
    $("share").textContent = status.ready ? `${Math.round(100 * status.restored_share)} %` : "–";
  }
}

function reason(error) {
  switch (error.name) {
    case "NotAllowedError": return "The browser may not use the camera. Allow it next to the page's address and try again.";
    case "NotFoundError": return "No camera was found on this device.";
    case "OverconstrainedError": return "This camera is not connected; choose another one.";
    case "NotReadableError": return "The camera cannot be opened; another program may be using it.";
    default: return "The camera cannot be used: " + error.message;
  }
}

/** Prefers H.264 for pictures from the program; its answer chooses the codec for those to it. */
function preferH264(connection) {
  const capabilities = RTCRtpSender.getCapabilities && RTCRtpSender.getCapabilities("video");
  const [transceiver] = connection.getTransceivers();
  if (!capabilities || !transceiver.setCodecPreferences) return;
  const first = (codec) => Number(codec.mimeType.toLowerCase() !== "video/h264");
  try {
    transceiver.setCodecPreferences([...capabilities.codecs].sort((a, b) => first(a) - first(b)));
  } catch { /* the default order works too */ }
}

/** Waits for the addresses of this machine, which are known at once, and not for others. */
function gathered(connection) {
  if (connection.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    connection.addEventListener("icegatheringstatechange", () => connection.iceGatheringState === "complete" && resolve());
    setTimeout(resolve, 1500);
  });
}
