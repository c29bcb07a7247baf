"use strict";

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Videos of one length and frame rate that play as one: the first keeps the time. */
class Players {
  constructor(screens, changed) {
    this.screens = screens;
    this.changed = changed; // called when the frame or the playing may have changed
    this.targets = screens.map(() => 0); // seconds to which each was sent last
    this.playing = false;
    this.loop = true;
    this.rate = 1;
    this.frames = 0;
    this.fps = 1;
    screens.forEach((screen, i) => {
      screen.addEventListener("seeking", () => this.#seekedFromOutside(i));
      screen.addEventListener("play", () => !this.playing && !screen.paused && this.play());
      screen.addEventListener("pause", () => this.playing && screen.paused && !screen.ended && this.pause());
    });
    screens[0].addEventListener("ended", () => this.#ended());
  }

  /** Show other clips, from their first frame on; frames = 0 shows none. */
  load(urls, frames, fps) {
    this.pause();
    this.frames = frames;
    this.fps = fps;
    this.screens.forEach((screen, i) => {
      URL.revokeObjectURL(screen.src);
      if (frames) screen.src = urls[i];
      else screen.removeAttribute("src");
      screen.load();
    });
    this.seek(0);
  }

  get frame() {
    const frame = Math.floor(this.screens[0].currentTime * this.fps + 1e-3);
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

  #send(i, time) {
    this.targets[i] = time;
    this.screens[i].currentTime = time;
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
    if (Math.abs(time - this.targets[i]) * this.fps > 0.6) this.seek(Math.floor(time * this.fps + 1e-3));
  }

  #ended() {
    if (!this.playing) return;
    if (!this.loop) return this.pause();
    this.seek(0);
    this.#start();
  }
}
