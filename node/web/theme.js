// Before the first paint, so that nothing flashes: the person's choice of colours, if there is one.
const choice = localStorage.getItem('flotilla.theme');
if (choice === 'light' || choice === 'dark') document.documentElement.dataset.theme = choice;
