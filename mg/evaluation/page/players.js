"use strict";

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Videos of one length and frame rate that play as one: the first keeps the time. */
class Players {
  constructor(screens, changed) {
    this.screens = screens;
    this.changed = changed; // called when the frame or the playing may have changed
    this.targets = screens.map(() => 0); // seconds at which each shall be
    this.sent = screens.map(() => 0); // to which each was sent last
    this.waits = screens.map(() => false); // until it is where it was sent, to be sent on
    this.playing = false;
    this.loop = true;
    this.rate = 1;
    this.frames = 0;
    this.fps = 1;
    screens.forEach((screen, i) => {
      screen.addEventListener("seeking", () => this.#seekedFromOutside(i));
      screen.addEventListener("seeked", () => this.waits[i] && this.#go(i));
      screen.addEventListener("play", () => !this.playing && !screen.paused && this.play());
      screen.addEventListener("pause", () => this.playing && screen.paused && !screen.ended && this.pause());
    });
    screens[0]?.addEventListener("ended", () => this.#ended());
  }

  /** Show other clips, from their first frame on; frames = 0 shows none. */
  load(urls, frames, fps) {
    this.pause();
    this.frames = frames;
    this.fps = fps;
    this.waits.fill(false);
    this.screens.forEach((screen, i) => {
      URL.revokeObjectURL(screen.src);
      if (frames) screen.src = urls[i];
      else screen.removeAttribute("src");
      screen.load();
    });
    this.seek(0);
  }

  get frame() {
    const time = this.waits[0] ? this.targets[0] : this.screens[0].currentTime;
    const frame = Math.floor(time * this.fps + 1e-3);
    return clamp(frame, 0, Math.max(this.frames - 1, 0));
  }

  seek(frame) {
    if (!this.frames) return;
    const time = (clamp(frame, 0, this.frames - 1) + 0.5) / this.fps; // the middle of the frame
    this.screens.forEach((_, i) => this.#send(i, time));
    this.changed();
  }

  step(count) {
    this.pause();
    this.seek(this.frame + count);
  }

  play() {
    if (this.frames < 2) return;
    if (this.frame === this.frames - 1) this.seek(0);
    this.playing = true;
    this.#start();
    this.#keepStep();
  }

  pause() {
    if (!this.playing) return;
    const frame = this.frame;
    this.playing = false;
    this.screens.forEach((screen) => screen.pause());
    this.seek(frame); // all end on the same
  }

  #start() {
    for (const screen of this.screens) {
      screen.playbackRate = this.rate;
      screen.play().catch(() => {}); // refused where a pause or another clip came first
    }
  }

  /** One seek at a time: a browser that is sent on before it arrives may never arrive. */
  #send(i, time) {
    this.targets[i] = time;
    this.waits[i] = this.screens[i].seeking;
    if (!this.waits[i]) this.#go(i);
  }

  #go(i) {
    this.waits[i] = false;
    this.sent[i] = this.targets[i];
    this.screens[i].currentTime = this.targets[i];
  }

  /** Whoever is late runs a little faster, whoever is early slower; the lost are sent. */
  #keepStep = () => {
    if (!this.playing) return;
    const [first, ...others] = this.screens;
    others.forEach((screen, i) => {
      const ahead = screen.currentTime - first.currentTime;
      const lost = Math.abs(ahead) > Math.max(2 / this.fps, 0.1);
      if (lost && !screen.seeking && !first.seeking) this.#send(i + 1, first.currentTime);
      const rate = this.rate * (1 - (lost ? 0 : clamp(2 * ahead, -0.2, 0.2)));
      if (Math.abs(screen.playbackRate - rate) > 0.01) screen.playbackRate = rate;
    });
    this.changed();
    requestAnimationFrame(this.#keepStep);
  };

  /** The browser's own controls, media keys and scripts move one: the others follow. */
  #seekedFromOutside(i) {
    const time = this.screens[i].currentTime;
    if (Math.abs(time - this.sent[i]) * this.fps > 0.6) this.seek(Math.floor(time * this.fps + 1e-3));
  }

  #ended() {
    if (!this.playing) return;
    if (!this.loop) return this.pause();
    this.seek(0);
    this.#start();
  }
}
