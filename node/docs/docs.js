// Draws openapi.json, asyncapi.json and errors.json, and sends what the reader fills in. Knows no operation by name.
// What comes from a document or an answer becomes text nodes, never markup.

import { Turn, follow } from './follow.js';

const VERBS = ['get', 'post', 'put', 'patch', 'delete'];
const $ = (id) => document.getElementById(id);

/** An element: attributes, then children (texts or elements). */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return node;
}

/** Text in which `words` are code. */
const prose = (text = '') => text.split(/\x60/).map((part, i) => (i % 2 ? el('code', {}, part) : part));

class Schemas {
  constructor(all) {
    this.all = all;
  }

  /** Follows references, and puts the parts of an `allOf` together. */
  of(schema = {}) {
    if (schema.$ref) {
      const { $ref, ...beside } = schema;
      return { ...this.of(this.all[$ref.split('/').pop()]), ...beside };
    }
    if (schema.allOf) {
      const parts = schema.allOf.map((part) => this.of(part));
      return { ...Object.assign({}, ...parts, schema), properties: Object.assign({}, ...parts.map((p) => p.properties)) };
    }
    return schema;
  }

  /** A few words: `UserId`, `list of Seq`, `text or nothing`. */
  name(schema = {}) {
    if (schema.$ref) return schema.$ref.split('/').pop();
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(' | ');
    const any = schema.anyOf ?? schema.oneOf;
    if (any) return any.map((part) => this.name(part)).join(' | ');
    const types = [schema.type ?? 'any'].flat();
    return types.map((type) => (type === 'array' ? `list of ${this.name(schema.items)}` : type)).join(' | ');
  }

  example(schema, depth = 0) {
    const one = this.of(schema);
    if (one.examples?.length) return one.examples[0];
    if (one.default !== undefined && one.default !== null) return one.default;
    if (one.const !== undefined) return one.const;
    if (one.enum) return one.enum[0];
    const any = one.anyOf ?? one.oneOf;
    if (any) return this.example(any.find((part) => part.type !== 'null') ?? any[0], depth);
    const type = [one.type].flat().find((name) => name !== 'null');
    if (type === 'object') {
      if (depth > 3) return {};
      const wanted = one.required ?? [];
      const names = Object.keys(one.properties ?? {}).filter((name) => wanted.includes(name));
      return Object.fromEntries(names.map((name) => [name, this.example(one.properties[name], depth + 1)]));
    }
    return { array: [], integer: 1, number: 1, boolean: true, string: '' }[type] ?? null;
  }

  /** Fields of an object, those of objects in it behind them. */
  fields(schema, prefix = '', depth = 0, seen = []) {
    let one = this.of(schema);
    let many = prefix;
    if ([one.type].flat().includes('array')) {
      one = this.of(one.items);
      many = `${prefix}[]`;
    }
    const any = one.anyOf ?? one.oneOf;
    if (any) return any.flatMap((part) => this.fields(part, many, depth, seen));
    if (!one.properties || depth > 3) return [];
    return Object.entries(one.properties).flatMap(([name, field]) => {
      const path = many ? `${many}.${name}` : name;
      const about = field.description ?? this.of(field).description;
      const row = { path, type: this.name(field), about, needed: (one.required ?? []).includes(name) };
      const key = this.name(field);
      return [row, ...(seen.includes(key) ? [] : this.fields(field, path, depth + 1, [...seen, key]))];
    });
  }
}

function table(heads, rows) {
  const row = (cell) => (cells) => el('tr', {}, cells.map((content) => el(cell, {}, content)));
  return el('table', {}, el('thead', {}, row('th')(heads)), el('tbody', {}, rows.map(row('td'))));
}

function fieldTable(schemas, schema) {
  const rows = schemas.fields(schema);
  if (rows.length === 0) return el('p', { class: 'quiet' }, schemas.name(schema));
  const cells = rows.map(({ path, type, about, needed }) => [el('code', {}, path), el('code', {}, type + (needed ? '' : '?')), prose(about)]);
  return table(['Field', 'Type', ''], cells);
}

const state = { token: '' };

/** Answers that operations share stand among the components. */
function withAnswers(operation, shared) {
  const found = ([status, answer]) => [status, answer.$ref ? shared[answer.$ref.split('/').pop()] : answer];
  return { ...operation, responses: Object.fromEntries(Object.entries(operation.responses).map(found)) };
}

/** One operation's form. */
function tryIt(operation, verb, path, schemas) {
  const parameters = (operation.parameters ?? []).filter((p) => p.in !== 'header');
  const body = operation.requestBody?.content['application/json'].schema;
  const id = operation.operationId;
  const inputs = parameters.map((parameter) => {
    const name = `${id}.${parameter.name}`;
    const value = parameter.in === 'path' ? String(schemas.example(parameter.schema) ?? '') : '';
    const input = el('input', { id: name, name: parameter.name, value, required: parameter.required, autocomplete: 'off' });
    return { parameter, input, row: el('div', { class: 'field' }, el('label', { for: name }, parameter.name), input) };
  });
  const text = body && el('textarea', { id: `${id}.body`, spellcheck: 'false', 'aria-label': 'Body' }, JSON.stringify(schemas.example(body), null, 2));
  const out = el('div', { role: 'status', class: 'answer' });

  const request = () => {
    let url = path;
    const query = new URLSearchParams();
    for (const { parameter, input } of inputs) {
      if (parameter.in === 'path') url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value !== '') query.set(parameter.name, input.value);
    }
    if ([...query].length) url += `?${query}`;
    const headers = {};
    if (state.token) headers.authorization = `Bearer ${state.token}`;
    if (body) headers['content-type'] = 'application/json';
    if (verb === 'POST') headers['idempotency-key'] = crypto.randomUUID?.() ?? uuid();
    return { url, options: { method: verb, headers, body: body ? text.value : undefined, cache: 'no-store', credentials: 'omit' } };
  };

  const turn = new Turn();
  const stop = el('button', { type: 'button', hidden: true, onclick: () => turn.stop() }, 'Stop');

  const send = async (event) => {
    event.preventDefault();
    const signal = turn.begin();
    out.replaceChildren('…');
    const { url, options } = request();
    const shown = el('pre', { tabindex: '0', 'aria-label': 'Answer' });
    try {
      const from = performance.now();
      const answer = await fetch(url, { ...options, signal });
      const goesOn = answer.headers.get('content-type')?.startsWith('text/event-stream');
      const content = goesOn ? '' : await answer.text();
      const ms = Math.round(performance.now() - from);
      if (signal.aborted) return;
      try {
        shown.textContent = JSON.stringify(JSON.parse(content), null, 2);
      } catch {
        // Lines, or no JSON at all: as it is.
        shown.textContent = content || (goesOn ? '' : '(empty)');
      }
      out.replaceChildren(
        el('p', { class: answer.ok ? 'good' : 'bad' }, el('strong', {}, `${answer.status} ${answer.statusText}`), ` after ${ms} ms`),
        shown,
        el('pre', { tabindex: '0', 'aria-label': 'The same with curl' }, curl(url, options)),
      );
      if (!goesOn) return;
      stop.hidden = false;
      await follow(answer, (text) => { shown.textContent = text; });
      out.append(el('p', { class: 'quiet' }, 'It has ended.'));
    } catch (error) {
      // A later try has the place by now.
      if (turn.signal !== signal) return;
      if (signal.aborted) out.append(el('p', { class: 'quiet' }, 'Stopped.'));
      else out.replaceChildren(el('p', { class: 'bad' }, `No answer: ${error.message}`));
    } finally {
      if (turn.signal === signal) stop.hidden = true;
    }
  };
  return el(
    'form',
    { onsubmit: send },
    el('h3', {}, 'Try it'),
    inputs.map(({ row }) => row),
    text,
    el('p', {}, el('button', { class: 'main', type: 'submit' }, `Send ${verb}`), ' ', stop),
    out,
  );
}

/** Where the page was not loaded over a safe origin, browsers have no `randomUUID`. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function curl(url, { method, headers, body }) {
  const quoted = (word) => `'${word.replaceAll("'", `'\\''`)}'`;
  const parts = ['curl', method === 'GET' ? '' : `-X ${method}`];
  for (const [name, value] of Object.entries(headers)) {
    // Not the token: what is copied is pasted somewhere.
    parts.push('-H', name === 'authorization' ? '"Authorization: Bearer $TOKEN"' : quoted(`${name}: ${value}`));
  }
  if (body) parts.push('-d', quoted(JSON.stringify(safely(body))));
  return [...parts, quoted(location.origin + url)].filter(Boolean).join(' ');
}

function safely(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function operationBody(operation, verb, path, schemas) {
  const parts = [el('p', {}, prose(operation.description))];
  if (operation['x-call']) parts.push(el('p', { class: 'quiet' }, 'Over the socket: ', el('code', {}, `call {"method": "${operation['x-call']}"}`)));
  const parameters = operation.parameters ?? [];
  if (parameters.length) {
    const rows = parameters.map((p) => [
      el('code', {}, p.name), p.in, el('code', {}, schemas.name(p.schema) + (p.required ? '' : '?')), prose(p.description ?? schemas.of(p.schema).description),
    ]);
    parts.push(el('h3', {}, 'Parameters'), table(['Name', 'In', 'Type', ''], rows));
  }
  const body = operation.requestBody?.content['application/json'].schema;
  if (body) parts.push(el('h3', {}, 'Body'), el('p', {}, prose(schemas.of(body).description)), fieldTable(schemas, body));
  const good = Object.entries(operation.responses).filter(([status]) => status < 400);
  for (const [status, answer] of good) {
    const [type, content] = Object.entries(answer.content ?? {})[0] ?? [];
    parts.push(el('h3', {}, `Answer ${status}${type ? `, ${type}` : ''}`), content ? fieldTable(schemas, content.schema) : el('p', {}, prose(answer.description)));
  }
  const bad = Object.entries(operation.responses).filter(([status]) => status >= 400);
  if (bad.length) {
    const rows = bad.map(([status, answer]) => [status, answer.description.split('\n\n').map((line) => el('div', {}, prose(line)))]);
    parts.push(el('h3', {}, 'Errors'), table(['Status', 'Code'], rows));
  }
  if (operation.operationId !== 'socket') parts.push(tryIt(operation, verb, path, schemas));
  return el('div', {}, parts);
}

/** What is inside is drawn when it is opened. */
function section(id, head, draw) {
  const details = el('details', { id }, el('summary', {}, head));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(draw());
  });
  return details;
}

function drawOperations(api, main, index) {
  const schemas = new Schemas(api.components.schemas);
  const groups = new Map(api.tags.map((tag) => [tag.name, []]));
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const verb of VERBS.filter((name) => operations[name])) {
      const operation = withAnswers(operations[verb], api.components.responses);
      groups.get(operation.tags[0]).push({ path, verb: verb.toUpperCase(), operation });
    }
  }
  for (const [group, all] of groups) {
    main.append(el('h2', {}, group));
    const list = el('ul');
    for (const { path, verb, operation } of all) {
      const id = operation.operationId;
      const head = [el('span', { class: `verb ${verb}` }, verb), el('code', {}, path), el('span', { class: 'quiet' }, operation.summary)];
      const details = section(id, head, () => operationBody(operation, verb, path, schemas));
      details.dataset.words = `${verb} ${path} ${operation.summary}`.toLowerCase();
      main.append(details);
      list.append(el('li', {}, el('a', { href: `#${id}` }, el('span', { class: verb }, `${verb} `), path.replace(/^\/v1\//, ''))));
    }
    index.append(el('h2', {}, group), list);
  }
}

function drawFrames(api, main, index) {
  const schemas = new Schemas(api.components.schemas);
  main.append(el('h2', { id: 'frames' }, 'WebSocket'), el('p', {}, prose(api.info.description)));
  for (const [name, message] of Object.entries(api.components.messages)) {
    const [from] = name.split('.');
    const head = [
      el('span', { class: `verb ${from === 'client' ? 'POST' : 'GET'}` }, from === 'client' ? 'client' : 'node'),
      el('code', {}, message.name),
      el('span', { class: 'quiet' }, message.summary),
    ];
    const answers = message['x-answers'];
    const content = message.payload.properties.d;
    const details = section(`frame.${name}`, head, () =>
      el('div', {}, answers && el('p', {}, 'Answered by ', answers.map((t) => [el('code', {}, t), ' '])), fieldTable(schemas, content),
        el('pre', {}, JSON.stringify({ t: message.name, ...(message.payload.required.includes('id') && { id: 1 }), d: schemas.example(content) }))));
    details.dataset.words = `${from} ${message.name} ${message.summary}`.toLowerCase();
    main.append(details);
  }
  index.append(el('h2', {}, 'More'), el('ul', {}, el('li', {}, el('a', { href: '#frames' }, 'WebSocket frames')),
    el('li', {}, el('a', { href: '#codes' }, 'Error codes')), el('li', {}, el('a', { href: '#closes' }, 'Close codes'))));
}

function drawCodes(codes, main) {
  const error = (e) => [el('code', {}, e.code), String(e.status), e.retryable ? 'yes' : 'no', prose(e.meaning), prose(e.advice)];
  const close = (c) => [`${c.code} `, el('code', {}, c.name), prose(c.meaning), prose(c.advice)];
  main.append(
    el('h2', { id: 'codes' }, 'Error codes'), table(['Code', 'Status', 'Again as it is', 'Meaning', 'What to do'], codes.errors.map(error)),
    el('h2', { id: 'closes' }, 'Close codes'), table(['Code', 'Name', 'Meaning', 'What to do'], codes.closes.map(close)), el('p', {}, prose(codes.others)),
  );
}

function filter() {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const details of document.querySelectorAll('main details')) {
    details.hidden = !words.every((word) => details.dataset.words.includes(word));
  }
}

function openNamed() {
  const named = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
    named.querySelector('summary').focus();
  }
}

function use(token, what) {
  state.token = token;
  $('known').textContent = token ? what : "Kept in this page's memory only.";
}

async function start() {
  const get = async (path) => (await fetch(path)).json();
  const [api, frames, codes, about] = await Promise.all(['/v1/openapi.json', '/v1/asyncapi.json', '/v1/errors.json', '/v1/page'].map(get));
  const [main, index] = [$('main'), $('index')];
  main.replaceChildren(el('p', {}, prose(api.info.description)));
  drawOperations(api, main, index);
  drawFrames(frames, main, index);
  drawCodes(codes, main);
  $('token').addEventListener('input', () => use($('token').value.trim(), 'Sent with every try.'));
  $('who').addEventListener('submit', (event) => event.preventDefault());
  $('filter').addEventListener('input', filter);
  $('demo').hidden = !about.demo;
  $('demo').addEventListener('click', () => {
    const name = `guest-${Math.random().toString(36).slice(2, 7)}`;
    $('token').value = `dev:${name}`;
    use(`dev:${name}`, `You are ${name}.`);
  });
  addEventListener('hashchange', openNamed);
  openNamed();
}

start().catch((error) => $('main').replaceChildren(el('p', { class: 'bad', role: 'alert' }, `The documents could not be loaded: ${error.message}`)));
