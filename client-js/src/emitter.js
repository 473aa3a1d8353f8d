// Listeners by name. A listener that throws stops nobody else: its error goes where uncaught errors go.

export class Emitter {
  /** @type {Map<string, Set<(data: any) => void>>} */
  #listeners = new Map();

  /** @param {string} name @param {(data: any) => void} listener @returns {() => void} takes the listener off */
  add(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** @param {string} name @param {any} data */
  emit(name, data) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(data);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
