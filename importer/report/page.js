// Draws the page out of the JSON in #data (importer/report/main.cc says what is in it). Text out of the
// database becomes text nodes only, never markup.
(() => {
  'use strict';
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($('data').textContent);

  // ---- Words and numbers ----

  const si = (value, unit, digits = 3) => {
    const prefixes = ['', 'k', 'M', 'G', 'T', 'P', 'E'];
    let power = 0;
    let scaled = Math.abs(value);
    while (scaled >= 999.5 && power < prefixes.length - 1) {
      scaled /= 1000;
      ++power;
    }
    const decimals = power === 0 && Number.isInteger(value) ? 0
      : Math.max(0, digits - 1 - Math.floor(Math.log10(Math.max(scaled, 1))));
    const text = (value < 0 ? '-' : '') + scaled.toFixed(decimals);
    return unit === '' && power === 0 ? text : `${text}\u00a0${prefixes[power]}${unit}`.trimEnd();
  };
  const bytes = (value) => si(value, 'B');
  const count = (value) => si(value, '');
  const bits = (value) => si(value, 'bit/s');
  // Of an axis: 50 M, not 50.0 M.
  const round = (text) => text.replace(/(\.\d*?)0+(?=\D|$)/, '$1').replace(/\.(?=\D|$)/, '');
  const exact = (value) => Math.round(value).toLocaleString('en');
  const plural = (number, word) => `${exact(number)} ${word}${number === 1 ? '' : 's'}`;
  const duration = (ms) => {
    if (!Number.isFinite(ms)) return '\u2013';
    if (ms < 1000) return `${ms > 0 && ms < 10 ? ms.toFixed(1) : Math.round(ms)}\u00a0ms`;
    const s = ms / 1000;
    if (s < 60) return `${s < 10 ? s.toFixed(2) : s.toFixed(1)}\u00a0s`;
    const units = [[86400, 'd', 3600, 'h'], [3600, 'h', 60, 'min'], [60, 'min', 1, 's']];
    for (const [large, name, small, rest] of units) {
      if (s < large) continue;
      const parts = Math.floor(Math.round(s / small) * small / large);
      const left = Math.round(s / small) - parts * (large / small);
      return `${parts}\u00a0${name}` + (left > 0 ? `\u00a0${left}\u00a0${rest}` : '');
    }
    return '';
  };

  // The report's zone, wherever the browser is.
  let local = data.asked.zone;
  try {
    new Intl.DateTimeFormat('en-GB', {timeZone: local});
  } catch {
    local = 'UTC';  // The server knows one that this browser does not.
  }
  const formats = {};
  const format = (zone, options) => {
    const key = zone + JSON.stringify(options);
    formats[key] ??= new Intl.DateTimeFormat('en-GB', {...options, timeZone: zone, hourCycle: 'h23'});
    return formats[key];
  };
  const kDay = {day: 'numeric', month: 'short', year: 'numeric'};
  const kTime = {hour: '2-digit', minute: '2-digit', second: '2-digit'};
  const day = (ms, zone) => format(zone, kDay).format(ms);
  const dayOfYear = (ms) => format(local, {day: 'numeric', month: 'short'}).format(ms);
  const clock = (ms, zone) => format(zone, kTime).format(ms);
  const offset = (ms) => {
    const part = Object.fromEntries(format(local, {...kTime, year: 'numeric', month: 'numeric', day: 'numeric'})
      .formatToParts(ms).map(({type, value}) => [type, Number(value)]));
    return Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute, part.second) - Math.floor(ms / 1000) * 1000;
  };
  const isUtc = offset(data.asked.from) === 0 && offset(data.asked.to) === 0;
  // "25 Nov 2026, 14:00:00 - 22:00:00", with the second day where it is another.
  // Where the clock is set back in between, an hour comes twice: each time says which.
  const span = (from, to, zone) => {
    const changed = zone !== 'UTC' && offset(from) !== offset(to);
    const [first, last] = [from, to].map((ms) => changed ? format(zone, {...kTime, timeZoneName: 'shortOffset'}).format(ms) : clock(ms, zone));
    return day(from, zone) === day(to, zone)
      ? `${day(from, zone)}, ${first}\u2009\u2013\u2009${last}`
      : `${day(from, zone)}, ${first}\u2009\u2013\u2009${day(to, zone)}, ${last}`;
  };
  const spanInZones = (from, to) => isUtc ? `${span(from, to, 'UTC')} UTC`
    : `${span(from, to, local)} ${local} (${span(from, to, 'UTC')} UTC)`;

  // ---- Elements ----

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const chip = (color) => {
    const made = element('span', {class: 'chip', 'aria-hidden': 'true'});
    made.style.background = `var(--${color})`;
    return made;
  };
  // A cell that also contains the exact figure.
  const cell = (text, value, unit, kind = '') => {
    const made = element('td', {class: kind}, text);
    if (value !== undefined) {
      made.dataset.exact = String(value);
      made.title = `${exact(value)}${unit ? ' ' + unit : ''}`;
    }
    return made;
  };
  const table = (heads, rows) => element('div', {class: 'table'}, element('table', {},
    element('thead', {}, element('tr', {}, ...heads.map(([text, kind]) => element('th', {scope: 'col', class: kind ?? ''}, text)))),
    element('tbody', {}, ...rows)));
  const head = (id, title, note) => {
    const made = element('div', {class: 'head'}, element('h2', {id: `${id}-title`}, title));
    const everything = element('span', {class: 'everything'}, 'of all traffic');  // Filters do not apply.
    everything.hidden = true;
    made.append(element('span', {class: 'note'}, note ?? ''), everything, element('span', {class: 'legend'}));
    return made;
  };

  // ---- What is shown ----

  // Addresses with their group masks. If the gateways' masks differ, or were changed, nobody knows an address' mask.
  const {masks} = data.masks;
  const suffixes = [0, 1, 2, 3].map((i) => {
    const all = new Set(masks.map((each) => each[3][i]));
    return all.size === 1 && !data.masks.csv ? [...all][0] ?? '' : '';
  });
  const isAddress = (text) => /^[0-9.]+$|^[0-9a-f:.]*:[0-9a-f:.]*$/.test(text);
  const network = (side) => (address) => {
    const suffix = suffixes[(address.includes(':') ? 2 : 0) + side];
    // A name says its own; what was folded has no network.
    if (data.asked.names && !isAddress(address)) return address;
    return (address === '0.0.0.0' || address === '::') && suffix !== '/0' ? address : address + suffix;
  };
  const [origin, destination] = [network(0), network(1)];
  document.body.classList.toggle('by-name', data.asked.names);
  // What a click can filter by: what the page lists.
  const kLists = ['origins', 'destinations', 'ports'];
  const placesOf = Object.fromEntries(kLists.map((id) => [id, new Map(data[id].keys.map((key, place) => [key, place]))]));
  data.origins.keys = data.origins.keys.map(origin);
  data.destinations.keys = data.destinations.keys.map(destination);
  // [ms, gateway, the masks before, the masks from then on]
  const maskChanges = masks.slice(1).map((each, i) => [each[1], each[0], masks[i][3], each[3], masks[i][0]])
    .filter(([, gateway, , , before]) => gateway === before);

  // Points: [end ms, seconds, place, bytes sent, bytes replied, packets sent, packets replied,
  // connections, their durations, (open)]. Those of the cross table end with the seconds: their sums are in its cells.
  // Seconds are what was covered. Where that is not known (CSV files) they are the point's length; but the first point may
  // begin before there is data, and has no lower rate for that. Half a second: dumps begin a little late.
  data.total.points = data.total.points.map(([end, seconds, ...sums]) => [end, seconds, 0, ...sums]);
  const {cross} = data;  // Not of too many keys: it would take long.
  if (cross) cross.coarse = true;
  else [$('drill').hidden, $('drill-one').hidden] = [true, false];
  const sources = [data.total, ...kLists.map((id) => data[id]), ...(cross ? [cross] : [])];
  for (const source of sources) {
    for (const point of source.points) {
      const before = (data.held[0] - (point[0] - source.width)) / 1000;
      if (before > 0 && before < point[1] && point[1] > source.width / 1000 - before + .5) point[1] -= before;
    }
  }
  const kEmpty = data.total.points.length === 0;
  // Up to the present: silence is seen.
  const until = Math.min(data.asked.to, data.generated);
  const whole = [data.total.from, Math.max(Math.min(data.total.to, data.held && !kEmpty ? Math.max(data.held[1], until) : data.total.to),
                                           data.total.from + 1000)];
  // The day where it is not plain from the page's head.
  const moment = (ms) => `${day(whole[0], local) === day(whole[1], local) ? '' : `${dayOfYear(ms)}, `}${clock(ms, local)}`;
  let shown = [...whole];
  const isWhole = () => shown[0] <= whole[0] && shown[1] >= whole[1];
  const middle = (end, width) => end - width / 2;
  // Days and months are not all of one length.
  for (const source of sources) {
    source.begins = new Map((source.ends ?? []).map((end, i) => [end, i > 0 ? source.ends[i - 1] : source.from]));
  }
  const beginOf = (source, end) => source.begins.get(end) ?? end - source.width;
  const center = (source, end) => (beginOf(source, end) + end) / 2;
  // A coarse point is in view if it overlaps: the middles of all may be outside of a short view.
  const inView = (source, end) => isWhole() || (source.coarse ? beginOf(source, end) < shown[1] && end > shown[0]
    : middle(end, source.width) >= shown[0] && middle(end, source.width) <= shown[1]);

  // Gaps that overlap become one region of the worst kind.
  const regions = [];
  for (const kind of ['resynced', 'partial']) {
    let last;
    for (const [, began, ended, text] of data.gaps.gaps) {
      if (text.includes('partial') !== (kind === 'partial')) continue;
      if (last && began <= last.ended) {
        last.ended = Math.max(last.ended, ended);
      } else {
        regions.push(last = {began, ended, kind});
      }
    }
  }
  const unknown = (from, to) => regions.some((region) => region.kind === 'partial' && region.began <= from && region.ended >= to);

  // Every point of the range, in order: null where nobody knows, zero where nothing moved.
  const grid = (source) => {
    const ends = [];
    if (!data.held) return ends;
    const all = source.ends ?? [];
    if (!source.ends) for (let end = source.from + source.width; end <= source.to + 1; end += source.width) all.push(end);
    for (const end of all) {
      if (beginOf(source, end) >= data.held[1] || end <= data.held[0]) continue;
      ends.push(end);
    }
    return ends;
  };
  const colors = {};
  const readColors = () => {
    const style = getComputedStyle(document.documentElement);
    for (const name of ['sent', 'replies', 'grid', 'muted', 'card', 'accent', 'line', 'rest', 'shade-partial', 'shade-resynced',
                        ...Array.from({length: 10}, (_, i) => `c${i}`)]) {
      colors[name] = style.getPropertyValue(`--${name}`).trim();
    }
  };

  // ---- Filters ----

  // The place of one that is listed, or null.
  const filters = {origins: null, destinations: null, ports: null};
  const chosenLists = () => kLists.filter((id) => filters[id] !== null);
  const isFiltered = () => chosenLists().length > 0;
  const kSums = 6;
  const kCell = 10;  // [point, origin, destination, port, sums...]

  // Sums of the cross table's cells that pass, as points of a list.
  const crossed = (wanted, placeOf = () => 0) => {
    const made = new Map();
    const {cells, points} = cross;
    for (let i = 0; i < cells.length; i += kCell) {
      if (kLists.some((id, k) => wanted[id] !== null && wanted[id] !== cells[i + 1 + k])) continue;
      const place = placeOf(cells, i);
      const key = `${cells[i]} ${place}`;
      let point = made.get(key);
      if (!point) made.set(key, point = [...points[cells[i]], place, ...new Array(kSums).fill(0)]);
      for (let k = 0; k < kSums; ++k) point[3 + k] += cells[i + 4 + k];
    }
    return [...made.values()];
  };
  // A list is not filtered by its own: another one of it can be chosen.
  const isCrossed = (id) => cross && chosenLists().some((other) => other !== id);
  const listSource = (id) => isCrossed(id)
    ? {...cross, keys: data[id].keys, beside: data[id].beside, others: data[id].others,
       points: crossed({...filters, [id]: null}, (cells, i) => cells[i + 1 + kLists.indexOf(id)])}
    : data[id];
  const totalSource = () => {
    const [id, second] = chosenLists();
    if (!id) return data.total;
    return second ? {...cross, points: crossed(filters)}
      : {...data[id], points: data[id].points.filter((point) => point[2] === filters[id])};
  };
  let current;
  const readSources = () => {
    current = {total: totalSource(), ...Object.fromEntries(kLists.map((id) => [id, listSource(id)]))};
  };
  readSources();

  // A name that filters by what it names ({list: place}); one that is not listed is only a name.
  const kinds = {origins: 'origin', destinations: 'destination', ports: 'protocol'};
  const pick = (wanted, text, label) => {
    const entries = Object.entries(wanted);
    if (entries.some(([, place]) => place === undefined) || (entries.length > 1 && !cross)) return text;
    const made = element('button', {type: 'button', class: 'pick', 'data-pick': JSON.stringify(wanted)}, text);
    if (label) made.setAttribute('aria-label', label);
    else made.title = `Only this ${entries.map(([id]) => kinds[id]).join(' and ')}; again: all`;
    return made;
  };
  const isPicked = (wanted) => Object.entries(wanted).every(([id, place]) => filters[id] === place);
  const choose = (wanted) => {
    const clear = isPicked(wanted);
    for (const id of kLists) {
      if (id in wanted) filters[id] = clear ? null : wanted[id];
      else if (!cross) filters[id] = null;
    }
    showFiltered();
  };

  const kSeriesMax = 10;  // As many as there are colours.
  const seriesColor = (place) => place < kSeriesMax ? `c${place}` : 'rest';

  // ---- Charts ----

  const charts = [];
  let following = false;
  const drawn = {};  // For tests: how often each chart was drawn.

  const shade = (context, area, graph) => {
    for (const {began, ended, kind} of regions) {
      const left = Math.max(graph.toDomXCoord(began), area.x);
      const right = Math.min(graph.toDomXCoord(ended), area.x + area.w);
      if (right < area.x || left > area.x + area.w) continue;
      context.fillStyle = colors[`shade-${kind}`];
      context.fillRect(left, area.y, Math.max(right - left, 2), area.h);
    }
    context.fillStyle = colors.muted;
    for (const [ms] of maskChanges) {
      const x = graph.toDomXCoord(ms);
      if (x < area.x || x > area.x + area.w) continue;
      for (let y = area.y; y < area.y + area.h; y += 6) context.fillRect(x, y, 1, 3);
    }
  };

  const show = (from, to) => {
    const least = Math.min(data.total.width * 2, whole[1] - whole[0]);
    let width = Math.min(Math.max(to - from, least), whole[1] - whole[0]);
    if (!Number.isFinite(width)) width = whole[1] - whole[0];
    const begin = Math.min(Math.max(from, whole[0]), whole[1] - width);
    shown = [begin, begin + width];
    following = true;
    for (const chart of charts) chart.graph.updateOptions({dateWindow: [...shown], valueRange: null});
    following = false;
    showFigures();
  };
  const move = (share) => show(shown[0] + (shown[1] - shown[0]) * share, shown[1] + (shown[1] - shown[0]) * share);
  const zoom = (factor) => {
    const center = (shown[0] + shown[1]) / 2;
    const half = (shown[1] - shown[0]) * factor / 2;
    show(center - half, center + half);
  };
  const onKey = (event) => {
    const action = {ArrowLeft: () => move(-.25), ArrowRight: () => move(.25), '+': () => zoom(.5), '=': () => zoom(.5),
                    '-': () => zoom(2), 0: () => show(...whole),
                    Escape: () => isFiltered() ? choose(Object.fromEntries(chosenLists().map((id) => [id, filters[id]]))) : show(...whole)}[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    // A table that is wider than its place needs the arrows itself.
    if (event.key.startsWith('Arrow') && event.target.matches('.table') && event.target.scrollWidth > event.target.clientWidth) return;
    event.preventDefault();
    action();
  };

  // Labels at round times of the report's zone.
  const kTickSeconds = [1, 5, 15, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400];
  const ticks = (from, to, pixels) => {
    const wanted = (to - from) / Math.max(2, Math.floor(pixels / 75));
    const step = 1000 * (kTickSeconds.find((seconds) => 1000 * seconds >= wanted) ?? 0);
    const made = [];
    const add = (wall) => {
      const v = wall - offset(wall - offset(wall));  // The clock's time as if it were UTC's.
      if (v < from || v > to || (made.length > 0 && v <= made.at(-1).v)) return;
      const label = wall % 86400000 === 0 ? dayOfYear(v)
        : format(local, step < 60000 ? kTime : {hour: '2-digit', minute: '2-digit'}).format(v);
      made.push({v, label});
    };
    const [first, last] = [from + offset(from), to + offset(to)];
    if (step > 0) {
      for (let wall = Math.ceil(first / step) * step; wall <= last; wall += step) add(wall);
    } else {
      const months = Math.ceil(wanted / (28 * 86400000));
      const start = new Date(first);
      for (let month = start.getUTCMonth(); ; month += months) {
        const wall = Date.UTC(start.getUTCFullYear(), month, 1);
        if (wall > last) break;
        add(wall);
      }
    }
    return made;
  };

  // One finger scrolls the page; a chart must not hold it. The buttons zoom there.
  const mouseOnly = Object.fromEntries(Object.entries(Dygraph.defaultInteractionModel).filter(([name]) => !name.startsWith('touch')));

  // The rows of a chart: [x, value...] with x the middle of a point, of a coarse one its beginning and its end. `add` adds a
  // point's values.
  const drawing = (source, number, add) => {
    const rows = [];
    const begins = new Map();
    const valuesOf = new Map();
    for (const end of grid(source)) {
      const begin = beginOf(source, end);
      const xs = source.coarse ? [Math.max(begin, whole[0]), Math.min(end, whole[1]) - 1] : [center(source, end)];
      if (xs[0] > xs.at(-1)) continue;
      const values = new Array(number).fill(unknown(begin, end) ? null : 0);
      valuesOf.set(end, values);
      for (const x of xs) {
        begins.set(x, begin);
        rows.push([x, values]);
      }
    }
    for (const point of source.points) {
      const values = valuesOf.get(point[0]);
      if (values) add(values, point);
    }
    if (rows.length === 0) rows.push([whole[0], new Array(number).fill(null)]);
    return {rows: rows.map(([x, values]) => [x, ...values]), begins, width: source.width, coarse: source.coarse};
  };

  // series: {name, color, unit(value)} each; draw(): what `drawing` returns.
  const chart = (id, title, series, draw, options = {}) => {
    let {rows, begins, width} = draw();
    const figure = $(id);
    const heading = head(id, title);
    const box = element('div', {class: 'chart', tabindex: '0', role: 'img', 'aria-labelledby': `${id}-title`,
                                'aria-describedby': `${id}-summary`});
    const summary = element('p', {class: 'hidden-text', id: `${id}-summary`});
    figure.prepend(heading, box, summary);
    const legend = heading.querySelector('.legend');
    const showLegend = (values, x) => {
      const parts = x === undefined ? [] : [element('span', {}, moment(begins.get(x) ?? x - width / 2))];
      series.forEach((one, i) => {
        // Of many only those that say something at this point: their names are in the table below.
        if (one.isHidden?.() || (options.stacked && (values === undefined || !values[i]))) return;
        const part = element('span', {}, chip(one.color), one.name);
        if (values !== undefined && values[i] !== null && values[i] !== undefined) {
          part.append(' ', element('b', {}, one.unit(values[i])));
        }
        parts.push(part);
      });
      legend.replaceChildren(...parts);
    };
    const file = () => rows.map(([x, ...values]) => [new Date(x), ...values]);
    // Few points are drawn as dots.
    const hasDots = (coarse) => rows.length <= 40 && !options.stacked && !coarse;
    const graph = new Dygraph(box, file(), {
      labels: ['time', ...series.map((_, i) => `s${i}`)],  // No text from the database: legends are ours.
      legend: 'never',
      stackedGraph: Boolean(options.stacked),
      fillGraph: true,
      fillAlpha: options.stacked ? .75 : .14,
      strokeWidth: options.stacked ? .75 : 1.5,
      strokeBorderWidth: null,
      colors: series.map((one) => colors[one.color]),
      axisLineColor: colors.line,
      gridLineColor: colors.grid,
      gridLineWidth: 1,
      axisLineWidth: 1,
      includeZero: true,
      drawPoints: hasDots(false),
      pointSize: 2,
      highlightCircleSize: options.stacked ? 2 : 3.5,
      highlightSeriesOpts: undefined,
      dateWindow: [...shown],
      showRangeSelector: Boolean(options.rangeSelector) && rows.length > 2,  // Of fewer it shows what is not there.
      rangeSelectorHeight: 34,
      rangeSelectorPlotFillColor: colors.accent,
      rangeSelectorPlotFillGradientColor: colors.card,
      rangeSelectorPlotStrokeColor: colors.accent,
      rangeSelectorBackgroundStrokeColor: colors.line,
      rangeSelectorForegroundStrokeColor: colors.muted,
      rangeSelectorAlpha: .5,
      interactionModel: mouseOnly,
      axes: {
        x: {axisLabelWidth: 58, ticker: ticks},
        y: {axisLabelWidth: 70, pixelsPerLabel: 27, axisLabelFormatter: (value) => value === 0 ? '0' : round(options.axis(value))},
      },
      xRangePad: 0,
      yRangePad: 2,
      underlayCallback: shade,
      highlightCallback: (event, x, points, row) => showLegend(rows[row].slice(1), rows[row][0]),
      unhighlightCallback: () => showLegend(),
      drawCallback: (graph, initial) => {
        drawn[id] = (drawn[id] ?? 0) + 1;
        if (initial || following) return;
        const [from, to] = graph.xAxisRange();
        // A double click goes as far as there are points, which lie in the middle of what they stand for.
        if (from <= rows[0][0] && to >= rows.at(-1)[0]) show(...whole);
        else show(from, to);
      },
    });
    showLegend();
    const redraw = () => {
      const made = draw();
      ({rows, begins, width} = made);
      graph.updateOptions({file: file(), drawPoints: hasDots(made.coarse), dateWindow: [...shown], valueRange: null});
      showLegend();
    };
    const summarise = () => {
      const seen = rows.filter(([x]) => (begins.get(x) ?? x) <= shown[1] && (begins.get(x) ?? x) + width >= shown[0]);
      summary.textContent = series.map((one, i) => one.isHidden?.() ? ''
        : `${one.name}: at most ${options.axis(Math.max(0, ...seen.map((row) => row[i + 1] ?? 0)))}`).filter(Boolean).join('; ');
    };
    charts.push({id, graph, series, redraw, summarise});
  };

  const repaint = () => {
    readColors();
    following = true;
    for (const {graph, series} of charts) {
      graph.updateOptions({
        colors: series.map((one) => colors[one.color]),
        axisLineColor: colors.line,
        gridLineColor: colors.grid,
        rangeSelectorPlotFillColor: colors.accent,
        rangeSelectorPlotFillGradientColor: colors.card,
        rangeSelectorPlotStrokeColor: colors.accent,
        rangeSelectorBackgroundStrokeColor: colors.line,
        rangeSelectorForegroundStrokeColor: colors.muted,
      });
    }
    following = false;
  };

  // ---- Figures that follow the zoom ----

  const sumsOf = (source) => {
    const sums = new Array(kSums).fill(0);
    for (const point of source.points) {
      if (!inView(source, point[0])) continue;
      for (let i = 0; i < kSums; ++i) sums[i] += point[3 + i];
    }
    return sums;
  };
  const meanTime = (sums) => sums[4] > 0 ? sums[5] / sums[4] : NaN;

  const total = (name, value, more, options = {}) => {
    const label = element('div', {class: 'name'}, ...(options.color ? [chip(options.color)] : []), name);
    const figure = element('div', {class: `value ${options.kind ?? ''}`}, value);
    if (options.exact !== undefined) {
      figure.dataset.exact = String(options.exact);
      figure.title = `${exact(options.exact)} ${options.unit ?? ''}`.trim();
    }
    return element('div', {class: 'total', 'data-name': options.id ?? name}, label, figure,
                   element('div', {class: 'more'}, more || '\u00a0'));
  };

  // Never rounded up to all.
  const completeShare = (expected, wrong) => {
    const share = 100 * (expected - wrong) / expected;
    return wrong === 0 ? '100\u00a0%' : `${Math.min(share, 99.99).toFixed(share < 99 ? 1 : 2)}\u00a0%`;
  };
  const completeness = () => {
    const sums = data.gateways.gateways.reduce((all, gateway) => {
      for (let i = 7; i < 14; ++i) all[i] += gateway[i];
      return all;
    }, new Array(14).fill(0));
    const [intervals, resynced, partial, dropped, lost, , missing] = sums.slice(7);
    if (intervals + missing === 0) {
      return total('Complete', 'unknown', 'from CSV files', {id: 'complete'});
    }
    const wrong = resynced + partial + missing;
    const losses = [dropped > 0 ? `${count(dropped)} events dropped` : '', lost > 0 ? `at least ${count(lost)} flows lost` : '']
      .filter(Boolean).join(', ');
    const more = wrong === 0 ? `all ${plural(intervals, 'interval')}`
      : [missing > 0 ? `${exact(missing)} missing` : '', partial > 0 ? `${exact(partial)} partial` : '',
         resynced > 0 ? `${exact(resynced)} resynced` : '']
        .filter(Boolean).join(', ');
    const made = total(isWhole() && !isFiltered() ? 'Complete' : 'Complete (all)', completeShare(intervals + missing, wrong), more,
                       {id: 'complete', kind: partial + missing > 0 ? 'partial' : resynced > 0 ? 'resynced' : 'good'});
    made.title = losses || 'No event was dropped';
    return made;
  };

  // Up to the end of the range; without -to, up to the present. A gateway that stopped long before it is not expected.
  const kSilentMs = 90000;
  const isSilent = (gateway) => gateway[15] !== null || (data.open && gateway[7] > 0 && data.generated - gateway[14] > kSilentMs);
  const silence = () => {
    const all = data.gateways.gateways.filter((gateway) => gateway[14] !== null && (gateway[7] > 0 || gateway[15] !== null));
    const silent = all.filter(isSilent);
    const newest = Math.max(...all.map((gateway) => gateway[14]));
    const made = total('Gateways', all.length === 0 ? 'unknown'
      : silent.length > 0 ? `${exact(silent.length)} silent` : `${exact(all.length)} sending`,
      all.length > 0 ? `${silent.length > 0 ? `of ${exact(all.length)}; ` : ''}newest interval ${dayOfYear(newest)}, ${clock(newest, local)}`
        : 'from CSV files',
      {id: 'silence', kind: silent.length > 0 ? 'partial' : 'good'});
    made.title = silent.map((gateway) => gateway[0]).join(', ');
    return made;
  };

  // Of the range, by the gateway that observed most. Of a gateway that writes CSV files nobody knows.
  const coveredSeconds = () => {
    const covered = data.gateways.gateways.map((gateway) => gateway[12]);
    return covered.length > 0 && covered.every((one) => one > 0) ? Math.max(...covered)
      : (Math.min(whole[1], data.held[1]) - Math.max(whole[0], data.held[0])) / 1000;
  };

  const showTotals = () => {
    const source = current.total;
    const sums = sumsOf(source);
    let peak = [0, 0];
    let openMost = 0;
    for (const point of source.points) {
      if (!inView(source, point[0])) continue;
      const rate = (point[3] + point[4]) * 8 / point[1];
      if (rate > peak[0]) peak = [rate, point[0]];
      openMost = Math.max(openMost, point[9] ?? 0);
    }
    // Also what was silent: of points without the chosen one, the others' time.
    const {points} = source.coarse ? cross : data.total;
    const seconds = points.reduce((sum, point) => sum + (inView(source.coarse ? cross : data.total, point[0]) ? point[1] : 0), 0);
    const time = isWhole() ? coveredSeconds() : seconds;
    const figures = [
      total('Sent', bytes(sums[0]), `${bits(sums[0] * 8 / time)} on average`, {color: 'sent', exact: sums[0], unit: 'bytes'}),
      total('Replies', bytes(sums[1]), `${bits(sums[1] * 8 / time)} on average`, {color: 'replies', exact: sums[1], unit: 'bytes'}),
      total('Peak', bits(peak[0]), peak[1] ? `both ways, ${duration(source.width)} from ${moment(beginOf(source, peak[1]))}` : ''),
      total('Packets', count(sums[2] + sums[3]), `${count(sums[2])} sent + ${count(sums[3])}`,
            {exact: sums[2] + sums[3], unit: 'packets'}),
      total('Connections', count(sums[4]), `closed, ${count(sums[4] / time)}/s`, {exact: sums[4], unit: 'connections closed'}),
      total('Mean duration', duration(meanTime(sums)), 'of closed connections', {exact: sums[5], unit: 'ms in all'}),
    ];
    if (data.total.open && !isFiltered()) figures.push(total('Open at most', count(openMost), `on average of ${duration(source.width)}`));
    figures.push(silence(), completeness());
    $('totals').replaceChildren(...figures);
  };

  // A name and its addresses; a long one leaves room for these.
  const named = (color, shownName, name, beside) => {
    const made = element('th', {scope: 'row'}, element('div', {class: 'named'}, chip(color), element('span', {}, shownName),
                                                        element('span', {class: 'beside'}, ` (${beside})`)));
    made.title = `${name} (${beside})`;
    return made;
  };

  const showTable = (id, name) => {
    const source = current[id];
    const sums = source.keys.map(() => new Array(kSums).fill(0));
    sums.push(new Array(kSums).fill(0));
    for (const point of source.points) {
      if (!inView(source, point[0])) continue;
      for (let i = 0; i < kSums; ++i) sums[point[2]][i] += point[3 + i];
    }
    const places = source.keys.map((_, i) => i).sort((a, b) => sums[b][0] + sums[b][1] - sums[a][0] - sums[a][1] || a - b);
    if (source.others > 0 || sums.at(-1)[0] + sums.at(-1)[1] > 0) places.push(source.keys.length);
    const all = sums.reduce((sum, one) => sum + one[0] + one[1], 0);
    const rows = places.map((place) => {
      const [sent, replies, packetsSent, packetsReplies, connections] = sums[place];
      const rest = place === source.keys.length;
      const restName = source.coarse ? 'all others' : `${exact(source.others)} more`;
      const bar = element('div', {class: 'bar'});
      bar.style.width = `${all > 0 ? 100 * (sent + replies) / all : 0}%`;
      bar.style.background = `var(--${seriesColor(place)})`;
      const share = element('td', {class: 'share'}, bar);
      share.title = `${all > 0 ? (100 * (sent + replies) / all).toFixed(1) : 0} % of bytes`;
      const shownName = rest ? restName : pick({[id]: place}, source.keys[place]);
      return element('tr', {class: rest ? 'rest' : filters[id] === place ? 'picked' : ''},
        !rest && source.beside?.[place] ? named(seriesColor(place), shownName, source.keys[place], source.beside[place])
          : element('th', {scope: 'row'}, chip(seriesColor(place)), shownName),
        share, cell(bytes(sent), sent, 'bytes'), cell(bytes(replies), replies, 'bytes'),
        cell(count(packetsSent + packetsReplies), packetsSent + packetsReplies, 'packets', 'minor'),
        cell(count(connections), connections, 'connections closed'),
        cell(duration(meanTime(sums[place])), undefined, '', 'minor'));
    });
    const made = table([[name], ['', 'share'], ['Sent'], ['Replies'], ['Packets', 'minor'], ['Conn.'], ['Mean time', 'minor']], rows);
    $(id).querySelector('.table')?.remove();
    $(id).append(made);
  };

  const showFigures = () => {
    $('shown').textContent = isWhole() ? '' : `${span(shown[0], shown[1], local)}${isUtc ? ' UTC' : ''}`;
    $('zoom-out').disabled = $('whole').disabled = $('earlier').disabled = $('later').disabled = isWhole();
    withFocus(() => {
      showTotals();
      showTable('origins', 'Origin');
      showTable('destinations', 'Destination');
      showTable('ports', 'Protocol/port');
      if (cross && isFiltered()) showPairs();
      markPicks();
    });
    for (const {summarise} of charts) summarise();
    showNotes();
  };

  // A button that is drawn again keeps the keyboard's focus.
  const withFocus = (draw) => {
    const {activeElement} = document;
    const card = activeElement?.closest('.card');
    const key = activeElement?.dataset.pick;
    draw();
    if (card && key && !activeElement.isConnected) {
      [...card.querySelectorAll('.pick')].find((button) => button.dataset.pick === key)?.focus({preventScroll: true});
    }
  };
  const markPicks = () => {
    for (const button of document.querySelectorAll('.pick')) {
      button.setAttribute('aria-pressed', String(isPicked(JSON.parse(button.dataset.pick))));
    }
  };

  // ---- Notes ----

  const pointText = (ms) => `a point is ${round(duration(ms))}`;
  // Of coarse points in view, the range that they are sums of, where that is another one.
  const asCoarse = (source) => {
    if (!source.coarse) return '';
    const ends = grid(source).filter((end) => inView(source, end));
    const within = (from, to) => [Math.max(from, data.held[0]), Math.min(to, data.held[1])];
    const [from, to] = within(ends.length > 0 ? beginOf(source, ends[0]) : 0, ends.at(-1) ?? 0);
    return String([from, to]) === String(within(...shown)) ? '' : `whole hours: ${span(from, to, local)}`;
  };
  const asUnlisted = (source) => source.unlisted ? 'small destinations are among the others: a sum may be too small' : '';
  const setNote = (id, ...parts) => {
    $(id).querySelector('.note').textContent = parts.filter(Boolean).join('; ');
  };
  const setUnfiltered = (id, isSet) => {
    $(id).classList.toggle('unfiltered', Boolean(isSet));
    for (const mark of $(id).querySelectorAll('.everything')) mark.hidden = !isSet;
  };
  const showNotes = () => {
    const {total: source} = current;
    const wider = asCoarse(source);
    $('hint').textContent = !cross && isFiltered() ? tooMany(chosenLists()[0]) : wider ? `Totals are of ${wider}.` : '';
    $('hint').hidden = $('hint').textContent === '';
    setNote('bits', pointText(source.width), regions.length > 0 ? 'gaps are shaded' : '', wider, asUnlisted(source));
    setNote('connections', data.total.open && isFiltered() ? 'open connections are shown for all traffic only' : '');
    for (const id of kLists) {
      setNote(id, 'both ways', pointText(current[id].width), asCoarse(current[id]), asUnlisted(current[id]));
      setUnfiltered(id, !cross && chosenLists().some((other) => other !== id));
    }
    for (const id of ['pairs', 'busiest']) setUnfiltered(id, !cross && isFiltered());
    for (const id of ['gateways', 'unanswered', 'services', 'gaps']) setUnfiltered(id, isFiltered());
  };

  // After a click: all that the filters change.
  const showFiltered = () => {
    readSources();
    const ids = chosenLists();
    const hadFocus = $('filters').contains(document.activeElement);
    $('filters').replaceChildren(...ids.map((id) => {
      const text = `${kinds[id]}: ${data[id].keys[filters[id]]}`;
      const made = element('button', {type: 'button', 'aria-label': `Clear the filter ${text}`, title: 'Clear (Escape clears all)'},
                           element('span', {}, text), '\u00a0\u00d7');
      made.addEventListener('click', () => choose({[id]: filters[id]}));
      return element('li', {}, made);
    }));
    following = true;
    for (const {redraw} of charts) redraw();
    following = false;
    withFocus(showPairs);
    showFigures();
    if (hadFocus) ($('filters').querySelector('button') ?? $('whole')).focus();
  };
  const tooMany = (id) => {
    const key = [...placesOf[id].keys()][filters[id]];
    const [proto, port] = key.startsWith('(') ? ['0', 'other'] : key.split('/');
    const side = id === 'origins' ? 'src' : 'dst';
    const flags = id === 'ports' ? `-proto=${proto}${port ? ` -port=${port === 'other' ? -1 : port}` : ''}`
      : isAddress(key) ? `-${side}=${key}` : `-${side}-name`;
    return 'This range has too many pairs and services for a table of all. So a click shows throughput, packets, connections and totals of one name; the ' +
      `rest of the page stays as it is. For all of ${data[id].keys[filters[id]]}, make a page with ${flags}.`;
  };

  // ---- Pairs ----

  // Pairs are summed by half hours or hours. Nothing to say where that changes nothing.
  const held = (source) => [Math.max(source.from, data.held[0]), Math.min(source.to, data.held[1])];
  const asWidened = (source) => String(held(source)) === String(held(data.total)) ? ''
    : `whole hours: ${span(source.from, source.to, local)}`;

  // Without a filter as asked for; with one, of the cross table.
  const pairsOfAll = () => {
    const {pairs} = data;
    const one = (name, id, raw) => ({name, place: placesOf[id].get(raw)});
    const more = (number) => number > 0 ? [{name: `${exact(number)} more`}] : [];
    return {
      rows: [...pairs.origins.map((raw) => one(origin(raw), 'origins', raw)), ...more(pairs.other_origins)],
      columns: [...pairs.destinations.map((raw) => one(destination(raw), 'destinations', raw)), ...more(pairs.other_destinations)],
      others: [pairs.origins.length, pairs.destinations.length],
      cells: pairs.cells,
      busiest: pairs.busiest.map(([src, dst, ...sums]) => [one(origin(src), 'origins', src), one(destination(dst), 'destinations', dst), ...sums]),
      count: `of ${plural(pairs.count, 'pair')}`, widened: asWidened(pairs), unlisted: asUnlisted(pairs)};
  };
  const pairsOfFilters = () => {
    const others = [data.origins.keys.length, data.destinations.keys.length];
    const sum = (wanted) => {
      const sums = new Map();
      for (const point of crossed(wanted, (cells, i) => cells[i + 1] * (others[1] + 1) + cells[i + 2])) {
        if (!inView(cross, point[0])) continue;
        if (!sums.has(point[2])) sums.set(point[2], new Array(kSums).fill(0));
        const all = sums.get(point[2]);
        for (let k = 0; k < kSums; ++k) all[k] += point[3 + k];
      }
      return [...sums].map(([place, all]) => [Math.floor(place / (others[1] + 1)), place % (others[1] + 1), ...all]);
    };
    const names = (id) => data[id].keys.map((name, place) => ({name, place}));
    const cells = sum({...filters, origins: null, destinations: null});
    const rows = [...names('origins'), {name: 'all others'}];
    const columns = [...names('destinations'), {name: 'all others'}];
    const sorted = sum(filters).sort((a, b) => b[2] + b[3] - a[2] - a[3]);
    const isPair = (one) => one[0] < others[0] && one[1] < others[1];
    const busiest = sorted.filter(isPair).slice(0, data.asked.top).map(([row, column, ...sums]) => [rows[row], columns[column], ...sums]);
    const rest = sorted.filter((one) => !isPair(one)).concat(sorted.filter(isPair).slice(data.asked.top));
    if (rest.length > 0) {
      busiest.push([{name: 'all others'}, {name: ''}, ...rest.reduce((all, one) => all.map((value, k) => value + one[2 + k]), new Array(kSums).fill(0))]);
    }
    // Without the others where there are none.
    const has = (index) => cells.some((one) => one[index] === others[index]);
    return {rows: has(0) ? rows : rows.slice(0, -1), columns: has(1) ? columns : columns.slice(0, -1), others, cells, busiest,
            count: 'of those listed', widened: asCoarse(cross), unlisted: asUnlisted(cross)};
  };

  const showPairs = () => {
    const {rows, columns, others, cells, busiest, count: countText, widened, unlisted} = cross && isFiltered() ? pairsOfFilters() : pairsOfAll();
    const values = rows.map(() => columns.map(() => [0, 0]));
    let most = 1;
    for (const [row, column, sent, replies] of cells) {
      values[row][column] = [sent, replies];
      // All others together are no pair, and would make everybody pale.
      if (row < others[0] && column < others[1]) most = Math.max(most, sent + replies);
    }
    const isFaint = (row, column) => cross && ((filters.origins !== null && row.place !== filters.origins) ||
                                               (filters.destinations !== null && column.place !== filters.destinations));
    const lines = rows.map((row, r) => element('tr', {}, element('th', {scope: 'row', title: row.name}, pick({origins: row.place}, row.name)),
      ...columns.map((column, c) => {
        const [sent, replies] = values[r][c];
        const sum = sent + replies;
        const made = cell('', sum, 'bytes');
        const level = Math.min(1, Math.sqrt(sum / most));
        made.style.setProperty('--level', level.toFixed(3));
        made.className = sum === 0 ? 'none' : r >= others[0] || c >= others[1] ? 'others' : level > .85 ? 'strong' : '';
        made.classList.toggle('faint', Boolean(isFaint(row, column)));
        made.title = `${row.name} \u2192 ${column.name}: ${bytes(sent)} sent, ${bytes(replies)} replies`;
        const text = sum > 0 ? si(sum, '', 2).replace('\u00a0', '') : '0';
        made.append(sum > 0 ? pick({origins: row.place, destinations: column.place}, text, made.title) : text);
        return made;
      })));
    const section = $('pairs');
    const scrolled = section.querySelector('.table')?.scrollLeft ?? 0;
    section.replaceChildren(head('pairs', 'Pairs', ['bytes both ways', 'origins in rows, destinations in columns', widened, unlisted]
      .filter(Boolean).join('; ')));
    if (lines.length === 0) {
      section.append(element('p', {class: 'empty'}, 'None.'));
    } else {
      const made = element('table', {},
        element('thead', {}, element('tr', {}, element('th', {scope: 'col'}, 'Origin'),
          ...columns.map((column) => element('th', {scope: 'col'}, element('span', {}, pick({destinations: column.place}, column.name)))))),
        element('tbody', {}, ...lines));
      made.style.maxWidth = `${130 + 130 * columns.length}px`;  // A few cells are not drawn out over the page.
      section.append(element('div', {class: 'table', tabindex: '0', role: 'region', 'aria-labelledby': 'pairs-title'}, made));
      section.querySelector('.table').scrollLeft = scrolled;
    }
    $('busiest').replaceChildren(
      head('busiest', 'Busiest pairs', [countText, widened, unlisted].filter(Boolean).join('; ')),
      table([['Origin'], ['Destination', 'left'], ['Sent'], ['Replies'], ['Packets', 'minor'], ['Conn.', 'minor'], ['Mean time', 'minor']],
        busiest.map(([src, dst, sent, replies, packetsSent, packetsReplies, connections, times]) => {
          const wanted = {origins: src.place, destinations: dst.place};
          return element('tr', {class: src.place === undefined && dst.name === '' ? 'rest' : ''},
            element('th', {scope: 'row', title: src.name}, pick(wanted, src.name)),
            element('td', {class: 'left', title: dst.name}, pick(wanted, dst.name)), cell(bytes(sent), sent, 'bytes'),
            cell(bytes(replies), replies, 'bytes'), cell(count(packetsSent + packetsReplies), packetsSent + packetsReplies, 'packets', 'minor'),
            cell(count(connections), connections, 'connections closed', 'minor'),
            cell(duration(connections > 0 ? times / connections : NaN), undefined, '', 'minor'));
        })));
    markPicks();
  };

  // ---- Figures of the whole range ----

  const showGateways = () => {
    const section = $('gateways');
    section.append(head('gateways', 'Gateways', 'data quality'));
    // [gateway, ...] as in gateways.sql.
    section.append(table([['Gateway'], ['Sent', 'minor'], ['Replies', 'minor'], ['Newest interval'], ['Intervals'], ['Expected'], ['Missing', 'minor'],
                          ['Resynced', 'minor'], ['Partial', 'minor'], ['Complete'], ['Dropped', 'minor'], ['Flows lost', 'minor']],
      data.gateways.gateways.map((row) => {
        const [gateway, sent, replies, , , , , intervals, resynced, partial, dropped, lost, covered, missing, newest] = row;
        const expected = intervals + missing;
        return element('tr', {},
          element('th', {scope: 'row', title: covered > 0 ? `${gateway}: ${duration(covered * 1000)} observed` : gateway},
                  gateway === '' ? '(no name)' : gateway),
          cell(bytes(sent), sent, 'bytes', 'minor'), cell(bytes(replies), replies, 'bytes', 'minor'),
          cell(newest === null ? 'unknown' : `${dayOfYear(newest)}, ${clock(newest, local)}`, undefined, '', isSilent(row) ? 'partial' : ''),
          cell(newest === null ? 'unknown' : exact(intervals), intervals), cell(newest === null ? 'unknown' : exact(expected), expected),
          cell(exact(missing), missing, 'intervals', `minor ${missing > 0 ? 'partial' : ''}`),
          cell(exact(resynced), resynced, '', `minor ${resynced > 0 ? 'resynced' : ''}`),
          cell(exact(partial), partial, '', `minor ${partial > 0 ? 'partial' : ''}`),
          cell(newest === null ? 'unknown' : expected > 0 ? completeShare(expected, resynced + partial + missing) : '\u2013', undefined, '',
               partial + missing > 0 ? 'partial' : resynced > 0 ? 'resynced' : ''),
          cell(count(dropped), dropped, 'events', 'minor'), cell(lost > 0 ? `\u2265\u00a0${count(lost)}` : '0', lost, 'flows at least', 'minor'));
      })));
    const changed = [...new Set(maskChanges.map(([, gateway]) => gateway))];
    if (changed.length > 0) {
      const fields = ['origins', 'destinations', 'IPv6 origins', 'IPv6 destinations'];
      const maskText = (mask, i) => mask === null ? 'unknown' : mask || (i < 2 ? '/32' : '/128');
      section.append(element('p', {class: 'empty'}, 'The group masks of ', element('b', {}, changed.join(', ')),
        ' were changed within this range (a dotted line in the charts): the same traffic has another address before and after.'));
      section.append(element('ul', {class: 'empty'}, ...maskChanges.map(([ms, gateway, before, after]) => element('li', {},
        `${moment(ms)} ${gateway}: `, fields.map((field, i) => before[i] === after[i] ? ''
          : `${field} ${maskText(before[i], i)} \u2192 ${maskText(after[i], i)}`).filter(Boolean).join(', ')))));
    } else if (data.masks.csv || masks.some((each) => String(each[3]) !== String(masks[0][3]))) {
      section.append(element('p', {class: 'empty'}, data.masks.csv
        ? 'Some rows came from CSV files, which do not contain group masks: networks are shown as addresses.'
        : 'The group masks of these gateways differ: networks are shown as addresses.'));
    }
  };

  const percent = (part, all) => `${all > 0 ? (100 * part / all).toFixed(1) : 0}\u00a0%`;
  const answered = (flows, unanswered) => {
    const made = element('td', {}, percent(flows - unanswered, flows));
    made.title = `${exact(flows - unanswered)} of ${plural(flows, 'flow')}`;
    made.dataset.exact = String(unanswered);
    return made;
  };

  const showUnanswered = () => {
    const section = $('unanswered');
    const {origins, count: all, no_origin: rest} = data.unanswered;
    section.append(head('unanswered', 'Unanswered flows', [all > origins.length ? `the first ${origins.length} of ${plural(all, 'origin')}` : '',
      'ended without a reply packet', asWidened(data.unanswered)].filter(Boolean).join('; ')));
    if (origins.length === 0) {
      section.append(element('p', {class: 'empty'}, 'None.'));
      return;
    }
    section.append(table([['Origin'], ['Unanswered'], ['Of flows'], ['Share', 'minor'], ['Destinations']],
      origins.map(([src, flows, unanswered, listed, folded]) => {
        const destinations = element('td', {}, folded === null ? `at least ${exact(listed)}`
          : folded > 0 ? `${exact(Math.max(listed, 1))} to ${exact(listed + folded)}` : exact(listed));
        return element('tr', {}, element('th', {scope: 'row'}, pick({origins: placesOf.origins.get(src)}, origin(src))), cell(exact(unanswered), unanswered, 'flows'),
          cell(exact(flows), flows, 'flows'), element('td', {class: 'minor'}, percent(unanswered, flows)), destinations);
      })));
    if (rest > 0) {
      section.append(element('p', {class: 'empty'},
        `${exact(rest)} more unanswered flows are of origins that -max-rows folded: an origin may have up to this number more.`));
    }
  };

  const showServices = () => {
    const section = $('services');
    const {services, split, count: all, unlisted, from, to} = data.services;
    section.append(head('services', 'Answered less', split === null ? '' : [
      all > services.length ? `the first ${services.length} of ${plural(all, 'service')}` : 'services',
      `from ${moment(split)} against before`].join(' ')));
    section.append(element('p', {class: 'empty'}, split === null
      ? 'The range is too short for a comparison: it needs 20 minutes.'
      : 'The answered share of flows fell by 20 percentage points or more in the last quarter of ' +
        `${span(from, to, local)}. At least 20 flows ended before and after. A refusal is an answer.` +
        (unlisted ? ' Some small destinations are not listed, and not compared.' : '')));
    if (split === null) return;
    if (services.length === 0) {
      section.append(element('p', {class: 'empty'}, 'None.'));
      return;
    }
    section.append(table([['Destination'], ['Service', 'left'], ['Answered before'], ['Answered last'], ['Flows last', 'minor']],
      services.map(([dst, service, flowsBefore, unansweredBefore, flowsLast, unansweredLast]) => element('tr', {},
        element('th', {scope: 'row'}, pick({destinations: placesOf.destinations.get(dst)}, destination(dst))),
        element('td', {class: 'left'}, pick({ports: placesOf.ports.get(service)}, service)),
        answered(flowsBefore, unansweredBefore), answered(flowsLast, unansweredLast),
        cell(exact(flowsLast), flowsLast, 'flows', 'minor')))));
  };

  const showGaps = () => {
    const section = $('gaps');
    const {gaps} = data.gaps;
    section.append(head('gaps', 'Gaps', data.gaps.count > gaps.length
      ? `the last ${exact(gaps.length)} of ${exact(data.gaps.count)}` : data.gaps.count > 0 ? plural(data.gaps.count, 'gap') : ''));
    if (gaps.length === 0) {
      section.append(element('p', {class: 'empty'}, 'No gaps recorded.'));
      return;
    }
    const made = table([['Began'], ['For'], ['What', 'left']],
      [...gaps].reverse().map(([gateway, began, ended, text]) => {
        const title = spanInZones(began, ended);
        return element('tr', {}, element('th', {scope: 'row', title}, `${dayOfYear(began)}, ${clock(began, local)}`),
          element('td', {}, duration(ended - began)), element('td', {class: 'wrap'}, element('b', {}, gateway), ' ',
            element('span', {class: text.includes('partial') ? 'partial' : 'resynced'}, text)));
      }));
    made.classList.add('scroll');
    made.tabIndex = 0;
    made.setAttribute('role', 'region');
    made.setAttribute('aria-labelledby', 'gaps-title');
    section.append(made);
  };

  // ---- The page ----

  const theme = (name, keep) => {
    document.documentElement.dataset.theme = name;
    // Browsers may forbid a page from a file to store anything.
    try {
      if (keep) localStorage.setItem('ctacct-theme', name);
    } catch {}
    repaint();
  };
  const darkWanted = matchMedia('(prefers-color-scheme: dark)');
  let chosen = null;
  try {
    chosen = localStorage.getItem('ctacct-theme');
  } catch {}
  const startTheme = () => theme(chosen === 'light' || chosen === 'dark' ? chosen : darkWanted.matches ? 'dark' : 'light', false);
  startTheme();
  darkWanted.addEventListener('change', startTheme);
  $('theme').addEventListener('click', () => {
    chosen = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
    theme(chosen, true);
  });

  $('range').textContent = spanInZones(whole[0], whole[1]);
  const names = {gateways: 'gateway', srcs: 'origin', dsts: 'destination', protos: 'protocol', ports: 'port',
                 src_names: 'origin named', dst_names: 'destination named'};
  for (const [key, name] of Object.entries(names)) {
    if (data.asked[key]) $('asked').append(element('li', {}, `${name}: ${data.asked[key].join(', ')}`));
  }
  $('made').textContent = `Made by ctacct on ${day(data.generated, 'UTC')}, ${clock(data.generated, 'UTC')} UTC, ` +
    `out of PostgreSQL ${data.asked.server}. ` +
    `Times are of ${isUtc ? 'UTC' : local}. SI units: 1 kB is 1000 bytes.`;

  if (kEmpty) {
    const notice = $('notice');
    const filtered = $('asked').childElementCount > 0 ? ' that passes the filters' : '';
    notice.textContent = data.held
      ? `No traffic${filtered} in this range. The database has some from ${spanInZones(data.held[0], data.held[1])}.`
      : 'No traffic yet: the tables are there, and empty. The importer fills them.';
    const silent = data.gateways.gateways.filter(isSilent).map((gateway) => gateway[0]);
    if (silent.length > 0) notice.textContent += ` Silent: ${silent.join(', ')}.`;
    notice.hidden = false;
    $('content').hidden = $('totals').hidden = true;
    // All of an interval may be missing.
    if (data.gaps.count > 0 || data.gateways.gateways.length > 0) {
      $('content').hidden = false;
      for (const card of $('content').querySelectorAll('.card')) card.hidden = card.id !== 'gaps' && card.id !== 'gateways';
      showGateways();
      showGaps();
    }
    for (const button of $('toolbar').querySelectorAll('button')) button.hidden = button.id !== 'theme';
    return;
  }

  const direction = (unit) => [{name: 'sent', color: 'sent', unit}, {name: 'replies', color: 'replies', unit}];
  const ofTotal = (number, ...values) => () => drawing(current.total, number, (sums, point) => {
    values.forEach((value, i) => { sums[i] = value(point); });
  });
  chart('bits', 'Throughput', direction(bits), ofTotal(2, (p) => p[3] * 8 / p[1], (p) => p[4] * 8 / p[1]), {axis: bits, rangeSelector: true});
  const perSecond = (value) => `${count(value)}/s`;
  chart('packets', 'Packets', direction(perSecond), ofTotal(2, (p) => p[5] / p[1], (p) => p[6] / p[1]), {axis: perSecond});
  if (data.total.open) {
    chart('connections', 'Connections',
          [{name: 'open', color: 'c4', unit: count, isHidden: isFiltered}, {name: 'closed per second', color: 'c2', unit: perSecond}],
          ofTotal(2, (p) => isFiltered() ? null : p[9] ?? 0, (p) => p[7] / p[1]), {axis: count});
  } else {
    chart('connections', 'Connections', [{name: 'closed', color: 'c2', unit: perSecond}], ofTotal(1, (p) => p[7] / p[1]), {axis: perSecond});
  }
  for (const [id, title] of [['origins', 'Origins'], ['destinations', 'Destinations'], ['ports', 'Protocols and ports']]) {
    const {keys, others} = data[id];
    const places = Math.min(keys.length, kSeriesMax);
    const series = keys.slice(0, places).map((name, i) => ({name, color: `c${i}`, unit: bits}));
    // Whole hours may have others where the range has none.
    if (keys.length > kSeriesMax || others > 0 || cross) series.push({name: 'all others', color: 'rest', unit: bits});
    chart(id, title, series, () => drawing(current[id], series.length, (rates, [, seconds, place, sent, replies]) => {
      rates[Math.min(place, places)] += (sent + replies) * 8 / seconds;
    }), {axis: bits, stacked: true});
  }
  showPairs();
  showGateways();
  showUnanswered();
  showServices();
  showGaps();
  show(...whole);

  $('earlier').addEventListener('click', () => move(-.5));
  $('later').addEventListener('click', () => move(.5));
  $('zoom-in').addEventListener('click', () => zoom(.5));
  $('zoom-out').addEventListener('click', () => zoom(2));
  $('whole').addEventListener('click', () => show(...whole));
  document.addEventListener('keydown', onKey);
  document.addEventListener('click', ({target}) => {
    const button = target.closest('.pick');
    if (button) choose(JSON.parse(button.dataset.pick));
  });
  document.documentElement.dataset.ready = Object.keys(drawn).join(' ');
})();
