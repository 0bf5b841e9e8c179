// Delay, frames and drops, from what the program and the browser measure.

import { $ } from "./parts.js";

const EVERY_MS = 1000;

export class Figures {
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

  /** Asks `connection` for its figures from now on; null stops that. */
  watch(connection) {
    clearInterval(this.timer);
    this.last = {};
    if (connection) this.timer = setInterval(() => this.measure(connection), EVERY_MS);
  }

  /** What the browser adds: both codings here, both ways of the network, and the wait before a picture is shown. */
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
    $("delay-more").textContent = here === null ? "camera to screen" : `restoring takes ${here} ms of it; ${status.delay_p95_ms} at the 95th percentile`;
    $("rate").textContent = this.shown === undefined ? "–" : `${this.shown.toFixed(0)}`;
    $("rate-more").textContent = `of ${status.rate_in.toFixed(0)} that the camera gave`;
    $("drops").textContent = String(status.dropped + status.unsent + this.lostHere);
    $("drops-more").textContent = status.late ? `${status.late} more went out as they came` : "frames not shown";
    $("share").textContent = status.ready ? `${Math.round(100 * status.restored_share)} %` : "–";
  }
}
