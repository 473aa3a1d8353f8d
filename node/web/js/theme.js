// Light, dark, or as the system has it.

/** @typedef {'system' | 'light' | 'dark'} Theme */

/** @returns {Theme} */
export const theme = () => /** @type {Theme} */ (localStorage.getItem('flotilla.theme') ?? 'system');

/** @param {Theme} [choice] */
export function applyTheme(choice = theme()) {
  if (choice === 'system') {
    localStorage.removeItem('flotilla.theme');
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem('flotilla.theme', choice);
    document.documentElement.dataset.theme = choice;
  }
}
