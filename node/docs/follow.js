// An answer that does not end by itself, shown as it comes.

/** As much of it as is kept: a page that is left open must not grow for ever. */
export const KEPT = 100_000;

/** Reads until the answer ends; an abort of its request is thrown. `show` gets the newest part of the text, each time there is more. */
export async function follow(answer, show, kept = KEPT) {
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text = (text + decoder.decode(value, { stream: true })).slice(-kept);
    show(text);
  }
}

/** One request at a time: the one before is given up. */
export class Turn {
  #going;

  begin() {
    this.stop();
    this.#going = new AbortController();
    return this.#going.signal;
  }

  /** Of the newest one. */
  get signal() {
    return this.#going?.signal;
  }

  stop() {
    this.#going?.abort();
  }
}
