// Two pictures of one scene, one over the other, with an edge between them that can be moved.
// x and y are where the picture's corner lies in the view and scale is how large one pixel of the
// result is, all in CSS pixels; split is the edge's place in the view, 0 to 1.

const MAX_SCALE = 16;

export class Compare {
  constructor(view, before, after, over, cut, onZoom) {
    Object.assign(this, { view, before, after, over, cut, onZoom });
    Object.assign(this, { width: 1, height: 1, x: 0, y: 0, scale: 1, split: 0.5 });
    this.fingers = new Map();
    view.addEventListener("pointerdown", event => this.press(event));
    view.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      view.addEventListener(name, event => this.fingers.delete(event.pointerId));
    }
    view.addEventListener("wheel", event => this.wheel(event), { passive: false });
    view.addEventListener("keydown", event => this.key(event));
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(view);
  }

  // Shows two pictures, both at the size of the result; resolves when they are there.
  async show(before, after, width, height) {
    Object.assign(this, { width, height, split: 0.5 });
    this.view.style.aspectRatio = `${width} / ${height}`;
    for (const [image, url] of [[this.before, before], [this.after, after]]) {
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
      image.src = url;
    }
    this.fit();
    await Promise.all([this.before.decode(), this.after.decode()]);
  }

  clear() {
    this.before.removeAttribute("src");
    this.after.removeAttribute("src");
  }

  smallest() {
    return Math.min(this.view.clientWidth / this.width, this.view.clientHeight / this.height);
  }

  fit() {
    this.scale = this.smallest();
    this.draw();
  }

  // Zooms to a scale and keeps the point (x, y) of the view where it is; the middle by default.
  zoomTo(scale, x = this.view.clientWidth / 2, y = this.view.clientHeight / 2) {
    const next = Math.min(Math.max(scale, this.smallest()), MAX_SCALE);
    this.x = x - ((x - this.x) * next) / this.scale;
    this.y = y - ((y - this.y) * next) / this.scale;
    this.scale = next;
    this.draw();
  }

  zoomBy(factor, x, y) {
    this.zoomTo(this.scale * factor, x, y);
  }

  onePixel() {
    this.zoomTo(1 / window.devicePixelRatio);
  }

  draw() {
    this.fitted = this.scale <= this.smallest() * 1.001;
    this.view.style.touchAction = this.fitted ? "pan-y" : "none"; // the page scrolls, or the picture
    this.view.style.cursor = this.fitted ? "ew-resize" : "grab";
    this.x = inside(this.x, this.view.clientWidth, this.width * this.scale);
    this.y = inside(this.y, this.view.clientHeight, this.height * this.scale);
    const place = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.before.style.transform = this.after.style.transform = place;
    this.over.style.clipPath = `inset(0 0 0 ${this.split * 100}%)`;
    this.cut.style.left = `${this.split * 100}%`;
    this.cut.setAttribute("aria-valuenow", Math.round(this.split * 100));
    this.onZoom(this.scale * window.devicePixelRatio);
  }

  splitAt(share) {
    this.split = Math.min(Math.max(share, 0), 1);
    this.draw();
  }

  place(event) {
    const box = this.view.getBoundingClientRect();
    const { clientLeft, clientTop } = this.view;
    return [event.clientX - box.left - clientLeft, event.clientY - box.top - clientTop];
  }

  press(event) {
    const [x, y] = this.place(event);
    this.fingers.set(event.pointerId, { x, y, cuts: this.cut.contains(event.target) });
    this.view.setPointerCapture(event.pointerId);
  }

  // One finger moves the edge, or the picture where it is larger than the view; two zoom.
  move(event) {
    const last = this.fingers.get(event.pointerId);
    if (!last) return;
    const [x, y] = this.place(event);
    const [dx, dy] = [x - last.x, y - last.y];
    const other = [...this.fingers.entries()].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const now = Math.hypot(x - other.x, y - other.y);
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      if (before > 0) this.zoomBy(now / before, (x + other.x) / 2, (y + other.y) / 2);
    } else if (last.cuts || this.fitted) {
      this.splitAt(x / this.view.clientWidth);
    } else {
      this.moveBy(dx, dy);
    }
    Object.assign(last, { x, y });
  }

  moveBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...this.place(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onCut = event.target === this.cut;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const keys = {
      "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8),
      0: () => this.fit(), 1: () => this.onePixel(),
    };
    if (onCut) {
      keys.Home = () => this.splitAt(0);
      keys.End = () => this.splitAt(1);
    }
    if (event.key in keys) {
      keys[event.key]();
    } else if (event.key in arrows) {
      const [right, down] = arrows[event.key];
      if (onCut) this.splitAt(this.split + 0.02 * (right - down));
      else this.moveBy(-40 * right, -40 * down);
    } else {
      return;
    }
    event.preventDefault();
  }
}

// Where a side of the picture begins: in the middle where it is smaller than the view, and else
// so that no gap shows.
function inside(start, view, side) {
  return side <= view ? (view - side) / 2 : Math.min(0, Math.max(view - side, start));
}
