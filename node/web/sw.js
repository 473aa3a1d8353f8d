// Keeps the page for when no node can be reached. Paths with a version never change, so the kept copy is as good as the node's;
// the page itself is asked for first, and kept for the time when nobody answers. It never touches /v1.

const CACHE = 'flotilla-{{version}}';
const FILES = {{files}};
/** Longer than this the person does not wait for a node to answer: the kept page works without one. */
const PATIENCE_MS = 2500;

self.addEventListener('install', event => {
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', event => {
  const old = keys => keys.filter(key => key.startsWith('flotilla-') && key !== CACHE);
  event.waitUntil(caches.keys().then(keys => Promise.all(old(keys).map(key => caches.delete(key)))).then(() => self.clients.claim()));
});

self.addEventListener('fetch', event => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== location.origin) return;
  if (request.mode === 'navigate' && url.pathname === '/') event.respondWith(page(request));
  else if (url.pathname.startsWith('/page/')) event.respondWith(file(request));
});

async function page(request) {
  const kept = caches.match('/', { cacheName: CACHE });
  try {
    const response = await fetch(request, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) return response;
    return (await kept) ?? response;
  } catch (error) {
    const page = await kept;
    if (page) return page;
    throw error;
  }
}

async function file(request) {
  return (await caches.match(request)) ?? fetch(request);
}
