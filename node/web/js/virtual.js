// A list of any length of which only what is near the view exists. Rows have any height; heights that are not known yet are
// guessed, and when a guess proves wrong the row under the reader's eye stays where it is.
//
// Invariant: after each update either the end is in view (the reader was at the end), or the anchor row has not moved.

/** Rows are kept this far beyond the view, in pixels. */
const OVERSCAN = 700;
/** So near to the end counts as there. */
const END_SLACK = 48;
/** Below the last row; somebody who types is named there. */
const END_SPACE = 28;
const PASSES_MAX = 4;

/**
 * @typedef {object} Item
 * @property {string} key
 */

export class VirtualList {
  /** @type {Item[]} */
  #items = [];
  /** Index by key. @type {Map<string, number>} */
  #places = new Map();
  /** Measured, by key. @type {Map<string, number>} */
  #heights = new Map();
  /** Tops of all items, and the bottom of the last. */
  #tops = new Float64Array(1);
  /** Tops below this index are right. */
  #dirty = 0;
  /** @type {Map<string, { el: HTMLElement, signature: string }>} */
  #rows = new Map();
  #viewport;
  #space;
  #window;
  #source;
  #width = 0;
  #viewHeight = 0;
  #frame = 0;
  /** @type {{ key: string, offset: number } | null} offset: of the view's top from the row's top */
  #anchor = null;
  isAtEnd = true;

  /**
   * @param {HTMLElement} viewport scrolls; gets all children from here
   * @param {{ render: (item: any) => HTMLElement, signature: (item: any) => string, estimate: (item: any, width: number) => number,
   *   onMove: () => void }} source a row is rendered anew when its signature changes
   */
  constructor(viewport, source) {
    this.#viewport = viewport;
    this.#source = source;
    this.#window = document.createElement('div');
    this.#window.className = 'virtual-window';
    this.#space = document.createElement('div');
    this.#space.className = 'virtual-space';
    this.#space.append(this.#window);
    viewport.replaceChildren(this.#space);
    viewport.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    this.resizes = new ResizeObserver(() => this.#onResize());
    this.resizes.observe(viewport);
    this.resizes.observe(this.#window);
  }

  end() {
    this.resizes.disconnect();
    cancelAnimationFrame(this.#frame);
  }

  get items() {
    return this.#items;
  }

  /** What the new list begins with as the old one did costs next to nothing. @param {Item[]} items */
  set(items) {
    const old = this.#items;
    let same = 0;
    while (same < old.length && same < items.length && old[same] === items[same]) same += 1;
    if (same < old.length / 2) this.#places.clear();
    else for (let at = same; at < old.length; at++) this.#places.delete(old[at].key);
    for (let at = same < old.length / 2 ? 0 : same; at < items.length; at++) this.#places.set(items[at].key, at);
    this.#items = items;
    this.#dirty = Math.min(this.#dirty, same);
    this.update();
  }

  /** Rows that are shown may have changed. */
  update() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    for (let pass = 0; pass < PASSES_MAX; pass++) {
      this.#layOut();
      this.#place();
      this.#show();
      if (!this.#measure()) break;
    }
    this.#source.onMove();
  }

  later() {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.update());
  }

  toEnd() {
    this.isAtEnd = true;
    this.#anchor = null;
    this.update();
  }

  /** @param {string} key @param {number} [share] of the view's height above the row */
  toKey(key, share = 0.3) {
    if (!this.#places.has(key)) return false;
    this.isAtEnd = false;
    this.#anchor = { key, offset: -this.#viewport.clientHeight * share };
    this.update();
    // It may be near the end after all.
    this.#look();
    this.update();
    return true;
  }

  /** Scrolls as little as needed. @param {string} key */
  reveal(key) {
    const at = this.#places.get(key);
    if (at === undefined) return;
    const { scrollTop, clientHeight } = this.#viewport;
    const [top, bottom] = [this.#tops[at] + this.#pad(), this.#tops[at + 1] + this.#pad()];
    if (top < scrollTop + 8) this.#viewport.scrollTop = top - 8;
    else if (bottom > scrollTop + clientHeight - 8) this.#viewport.scrollTop = bottom - clientHeight + 8;
    this.#look();
    this.update();
  }

  /** @param {string} key @returns {HTMLElement | undefined} if it is shown */
  row(key) {
    return this.#rows.get(key)?.el;
  }

  /** First and last index of what is in view. @returns {[number, number]} */
  inView() {
    const top = this.#viewport.scrollTop - this.#pad();
    return [this.#at(top), this.#at(top + this.#viewport.clientHeight - 1)];
  }

  /** @param {Item} item */
  #height(item) {
    return this.#heights.get(item.key) ?? this.#source.estimate(item, this.#width);
  }

  #layOut() {
    this.#width ||= this.#viewport.clientWidth;
    const count = this.#items.length;
    if (this.#tops.length < count + 1) {
      this.#tops = new Float64Array(Math.max(count + 1, this.#tops.length * 2));
      this.#dirty = 0;
    }
    if (this.#dirty > count) return;
    let top = this.#dirty === 0 ? 0 : this.#tops[this.#dirty];
    for (let at = this.#dirty; at < count; at++) {
      this.#tops[at] = top;
      top += this.#height(this.#items[at]);
    }
    this.#tops[count] = top;
    this.#dirty = Infinity;
    this.#space.style.height = `${Math.max(this.#total(), this.#viewport.clientHeight)}px`;
  }

  #total() {
    return this.#tops[this.#items.length] + END_SPACE;
  }

  /** A short list stands at the bottom. */
  #pad() {
    return Math.max(0, this.#viewport.clientHeight - this.#total());
  }

  #place() {
    const { scrollTop, clientHeight } = this.#viewport;
    const bottom = Math.max(0, this.#total() - clientHeight);
    let wanted = scrollTop;
    if (this.isAtEnd) wanted = bottom;
    else if (this.#anchor) {
      const at = this.#places.get(this.#anchor.key);
      if (at !== undefined) wanted = this.#tops[at] + this.#pad() + this.#anchor.offset;
    }
    wanted = Math.min(Math.max(wanted, 0), bottom);
    if (Math.abs(wanted - scrollTop) >= 0.5) this.#viewport.scrollTop = wanted;
  }

  /** The item at this height. @param {number} y */
  #at(y) {
    let [low, high] = [0, Math.max(0, this.#items.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#tops[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #show() {
    const pad = this.#pad();
    const top = this.#viewport.scrollTop - pad;
    const first = this.#at(top - OVERSCAN);
    const last = this.#items.length === 0 ? -1 : this.#at(top + this.#viewport.clientHeight + OVERSCAN);
    const wanted = new Set();
    let next = this.#window.firstElementChild;
    for (let at = first; at <= last; at++) {
      const item = this.#items[at];
      wanted.add(item.key);
      const old = this.#rows.get(item.key)?.el;
      const el = this.#row(item);
      // Drawn anew, in its place.
      if (old !== undefined && old === next) next = el;
      if (el === next) next = next.nextElementSibling;
      else this.#window.insertBefore(el, next);
    }
    for (const [key, { el }] of this.#rows) {
      if (wanted.has(key)) continue;
      // Who was on a row that is gone stays in the list.
      if (el.contains(document.activeElement)) this.#viewport.focus({ preventScroll: true });
      el.remove();
      this.#rows.delete(key);
    }
    this.#window.style.transform = `translateY(${(this.#tops[first] ?? 0) + pad}px)`;
  }

  /** @param {Item} item */
  #row(item) {
    const signature = this.#source.signature(item);
    const row = this.#rows.get(item.key);
    if (row?.signature === signature) return row.el;
    const el = this.#source.render(item);
    if (row) {
      const had = row.el.contains(document.activeElement);
      row.el.replaceWith(el);
      if (had) el.focus({ preventScroll: true });
    }
    this.#rows.set(item.key, { el, signature });
    return el;
  }

  /** True: something was not as it was thought. */
  #measure() {
    let changed = false;
    for (const [key, { el }] of this.#rows) {
      const { height } = el.getBoundingClientRect();
      if (Math.abs((this.#heights.get(key) ?? -1) - height) < 0.25) continue;
      this.#heights.set(key, height);
      this.#dirty = Math.min(this.#dirty, this.#places.get(key) ?? 0);
      changed = true;
    }
    return changed;
  }

  /** Where the reader is. */
  #look() {
    const { scrollTop, clientHeight, scrollHeight } = this.#viewport;
    this.isAtEnd = scrollTop + clientHeight >= scrollHeight - END_SLACK;
    const top = scrollTop - this.#pad();
    const item = this.#items[this.#at(top)];
    this.#anchor = item ? { key: item.key, offset: top - this.#tops[this.#at(top)] } : null;
  }

  #onScroll() {
    this.#look();
    this.later();
  }

  #onResize() {
    const { clientWidth: width, clientHeight: height } = this.#viewport;
    if (width === 0) return;
    // What this list has done itself it knows already.
    if (width === this.#width && height === this.#viewHeight) return void (this.#measure() && this.update());
    if (width !== this.#width) {
      // Lines break elsewhere: what was measured is not true any more.
      this.#heights.clear();
      this.#dirty = 0;
    }
    [this.#width, this.#viewHeight] = [width, height];
    this.#space.style.height = `${Math.max(this.#total(), height)}px`;
    this.update();
  }
}
