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
    made.append(element('span', {class: 'note'}, note ?? ''), element('span', {class: 'legend'}));
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
  data.origins.keys = data.origins.keys.map(origin);
  data.destinations.keys = data.destinations.keys.map(destination);
  // [ms, gateway, the masks before, the masks from then on]
  const maskChanges = masks.slice(1).map((each, i) => [each[1], each[0], masks[i][3], each[3], masks[i][0]])
    .filter(([, gateway, , , before]) => gateway === before);

  // Points: [end ms, seconds, (place,) bytes sent, bytes replied, packets sent, packets replied,
  // connections, their durations, (open)].
  // Seconds are what was covered. Where that is not known (CSV files) they are the point's length; but the first point may
  // begin before there is data, and has no lower rate for that. Half a second: dumps begin a little late.
  for (const source of [data.total, data.origins, data.destinations, data.ports]) {
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
  for (const source of [data.total, data.origins, data.destinations, data.ports]) {
    source.begins = new Map((source.ends ?? []).map((end, i) => [end, i > 0 ? source.ends[i - 1] : source.from]));
  }
  const beginOf = (source, end) => source.begins.get(end) ?? end - source.width;
  const center = (source, end) => (beginOf(source, end) + end) / 2;
  const inView = (end, width) => isWhole() || (middle(end, width) >= shown[0] && middle(end, width) <= shown[1]);

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
                    '-': () => zoom(2), 0: () => show(...whole), Escape: () => show(...whole)}[event.key];
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

  // series: {name, color, unit(value)} each; rows: [x, value...] with x the middle of a point.
  const chart = (id, title, series, rows, width, options = {}) => {
    const figure = $(id);
    const heading = head(id, title, options.note);
    const box = element('div', {class: 'chart', tabindex: '0', role: 'img', 'aria-labelledby': `${id}-title`,
                                'aria-describedby': `${id}-summary`});
    const summary = element('p', {class: 'hidden-text', id: `${id}-summary`});
    figure.prepend(heading, box, summary);
    if (rows.length === 0) rows = [[whole[0], ...series.map(() => null)]];
    const legend = heading.querySelector('.legend');
    const begins = new Map([...options.begins ?? []].map(([end, begin]) => [(begin + end) / 2, begin]));
    const showLegend = (values, x) => {
      const parts = x === undefined ? [] : [element('span', {}, moment(begins.get(x) ?? x - width / 2))];
      series.forEach((one, i) => {
        // Of many only those that say something at this point: their names are in the table below.
        if (options.stacked && (values === undefined || !values[i])) return;
        const part = element('span', {}, chip(one.color), one.name);
        if (values !== undefined && values[i] !== null && values[i] !== undefined) {
          part.append(' ', element('b', {}, one.unit(values[i])));
        }
        parts.push(part);
      });
      legend.replaceChildren(...parts);
    };
    const graph = new Dygraph(box, rows.map(([x, ...values]) => [new Date(x), ...values]), {
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
      // Few points are drawn as dots.
      drawPoints: rows.length <= 40 && !options.stacked,
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
    charts.push({id, graph, series, summary, rows, options});
  };

  const repaint = () => {
    readColors();
    following = true;
    for (const {graph, series, options} of charts) {
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

  const kSums = 6;
  const sumsOf = (points, first, width) => {
    const sums = new Array(kSums).fill(0);
    for (const point of points) {
      if (!inView(point[0], width)) continue;
      for (let i = 0; i < kSums; ++i) sums[i] += point[first + i];
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
    const made = total(isWhole() ? 'Complete' : 'Complete (all)', completeShare(intervals + missing, wrong), more,
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
      : silent.length > 0 ? `${exact(silent.length)} of ${exact(all.length)} silent` : `${exact(all.length)} sending`,
      all.length > 0 ? `newest interval ${dayOfYear(newest)}, ${clock(newest, local)}` : 'from CSV files',
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
    const {points, width} = data.total;
    const sums = sumsOf(points, 2, width);
    let seconds = 0;
    let peak = [0, 0];
    let openMost = 0;
    for (const point of points) {
      if (!inView(point[0], width)) continue;
      seconds += point[1];
      const rate = (point[2] + point[3]) * 8 / point[1];
      if (rate > peak[0]) peak = [rate, point[0]];
      openMost = Math.max(openMost, point[8] ?? 0);
    }
    const time = isWhole() ? coveredSeconds() : seconds;
    const figures = [
      total('Sent', bytes(sums[0]), `${bits(sums[0] * 8 / time)} on average`, {color: 'sent', exact: sums[0], unit: 'bytes'}),
      total('Replies', bytes(sums[1]), `${bits(sums[1] * 8 / time)} on average`, {color: 'replies', exact: sums[1], unit: 'bytes'}),
      total('Peak', bits(peak[0]), peak[1] ? `both ways, ${duration(width)} from ${moment(beginOf(data.total, peak[1]))}` : ''),
      total('Packets', count(sums[2] + sums[3]), `${count(sums[2])} sent + ${count(sums[3])}`,
            {exact: sums[2] + sums[3], unit: 'packets'}),
      total('Connections', count(sums[4]), `closed, ${count(sums[4] / time)}/s`, {exact: sums[4], unit: 'connections closed'}),
      total('Mean duration', duration(meanTime(sums)), 'of closed connections', {exact: sums[5], unit: 'ms in all'}),
    ];
    if (data.total.open) figures.push(total('Open at most', count(openMost), `on average of ${duration(width)}`));
    figures.push(silence(), completeness());
    $('totals').replaceChildren(...figures);
  };

  // A name and its addresses; a long one leaves room for these.
  const named = (color, name, beside) => {
    const made = element('th', {scope: 'row'}, element('div', {class: 'named'}, chip(color), element('span', {}, name),
                                                        element('span', {class: 'beside'}, ` (${beside})`)));
    made.title = `${name} (${beside})`;
    return made;
  };

  const showTable = (id, source, name) => {
    const sums = source.keys.map(() => new Array(kSums).fill(0));
    sums.push(new Array(kSums).fill(0));
    for (const point of source.points) {
      if (!inView(point[0], source.width)) continue;
      for (let i = 0; i < kSums; ++i) sums[point[2]][i] += point[3 + i];
    }
    const places = source.keys.map((_, i) => i).sort((a, b) => sums[b][0] + sums[b][1] - sums[a][0] - sums[a][1] || a - b);
    if (source.others > 0) places.push(source.keys.length);
    const all = sums.reduce((sum, one) => sum + one[0] + one[1], 0);
    const rows = places.map((place) => {
      const [sent, replies, packetsSent, packetsReplies, connections] = sums[place];
      const rest = place === source.keys.length;
      const bar = element('div', {class: 'bar'});
      bar.style.width = `${all > 0 ? 100 * (sent + replies) / all : 0}%`;
      bar.style.background = `var(--${seriesColor(place)})`;
      const share = element('td', {class: 'share'}, bar);
      share.title = `${all > 0 ? (100 * (sent + replies) / all).toFixed(1) : 0} % of bytes`;
      return element('tr', {class: rest ? 'rest' : ''},
        !rest && source.beside?.[place] ? named(seriesColor(place), source.keys[place], source.beside[place])
          : element('th', {scope: 'row'}, chip(seriesColor(place)), rest ? `${exact(source.others)} more` : source.keys[place]),
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
    showTotals();
    showTable('origins', data.origins, 'Origin');
    showTable('destinations', data.destinations, 'Destination');
    showTable('ports', data.ports, 'Protocol/port');
    for (const {summary, series, rows, options} of charts) {
      summary.textContent = series.map((one, i) => {
        const values = rows.filter((row) => row[0] >= shown[0] && row[0] <= shown[1]).map((row) => row[i + 1] ?? 0);
        return `${one.name}: at most ${options.axis(Math.max(0, ...values))}`;
      }).join('; ');
    }
  };

  // ---- Figures of the whole range ----

  // Pairs are summed by half hours or hours. Nothing to say where that changes nothing.
  const held = (source) => [Math.max(source.from, data.held[0]), Math.min(source.to, data.held[1])];
  const asWidened = (source) => String(held(source)) === String(held(data.total)) ? ''
    : `whole hours: ${span(source.from, source.to, local)}`;

  const showPairs = () => {
    const {cells, busiest} = data.pairs;
    const origins = data.pairs.origins.map(origin);
    const destinations = data.pairs.destinations.map(destination);
    const rowNames = [...origins, ...(data.pairs.other_origins > 0 ? [`${exact(data.pairs.other_origins)} more`] : [])];
    const columnNames = [...destinations,
                         ...(data.pairs.other_destinations > 0 ? [`${exact(data.pairs.other_destinations)} more`] : [])];
    const values = rowNames.map(() => columnNames.map(() => [0, 0]));
    let most = 1;
    for (const [row, column, sent, replies] of cells) {
      values[row][column] = [sent, replies];
      // All others together are no pair, and would make everybody pale.
      if (row < origins.length && column < destinations.length) most = Math.max(most, sent + replies);
    }
    const rows = rowNames.map((rowName, row) => element('tr', {}, element('th', {scope: 'row', title: rowName}, rowName),
      ...columnNames.map((columnName, column) => {
        const [sent, replies] = values[row][column];
        const sum = sent + replies;
        const made = cell(sum > 0 ? si(sum, '', 2).replace('\u00a0', '') : '0', sum, 'bytes');
        const level = Math.min(1, Math.sqrt(sum / most));
        made.style.setProperty('--level', level.toFixed(3));
        made.className = sum === 0 ? 'none' : row >= origins.length || column >= destinations.length ? 'others'
          : level > .85 ? 'strong' : '';
        made.title = `${rowName} \u2192 ${columnName}: ${bytes(sent)} sent, ${bytes(replies)} replies`;
        return made;
      })));
    const section = $('pairs');
    section.append(head('pairs', 'Pairs', ['bytes both ways', 'origins in rows, destinations in columns', asWidened(data.pairs)]
      .filter(Boolean).join('; ')));
    if (rows.length === 0) {
      section.append(element('p', {class: 'empty'}, 'None.'));
    } else {
      const made = element('table', {},
        element('thead', {}, element('tr', {}, element('th', {scope: 'col'}, 'Origin'),
          ...columnNames.map((name) => element('th', {scope: 'col'}, element('span', {}, name))))),
        element('tbody', {}, ...rows));
      made.style.maxWidth = `${130 + 130 * columnNames.length}px`;  // A few cells are not drawn out over the page.
      section.append(element('div', {class: 'table', tabindex: '0', role: 'region', 'aria-labelledby': 'pairs-title'}, made));
    }
    $('busiest').append(head('busiest', 'Busiest pairs', [`of ${plural(data.pairs.count, 'pair')}`, asWidened(data.pairs)]
      .filter(Boolean).join(', ')));
    $('busiest').append(table([['Origin'], ['Destination', 'left'], ['Sent'], ['Replies'], ['Packets', 'minor'], ['Conn.', 'minor'],
                               ['Mean time', 'minor']],
      busiest.map(([src, dst, sent, replies, packetsSent, packetsReplies, connections, times]) => element('tr', {},
        element('th', {scope: 'row', title: origin(src)}, origin(src)),
        element('td', {class: 'left', title: destination(dst)}, destination(dst)), cell(bytes(sent), sent, 'bytes'),
        cell(bytes(replies), replies, 'bytes'), cell(count(packetsSent + packetsReplies), packetsSent + packetsReplies, 'packets', 'minor'),
        cell(count(connections), connections, 'connections closed', 'minor'),
        cell(duration(connections > 0 ? times / connections : NaN), undefined, '', 'minor')))));
  };

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
        return element('tr', {}, element('th', {scope: 'row'}, origin(src)), cell(exact(unanswered), unanswered, 'flows'),
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
        element('th', {scope: 'row'}, destination(dst)), element('td', {class: 'left'}, service),
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
    if (data.asked[key]) $('filters').append(element('li', {}, `${name}: ${data.asked[key].join(', ')}`));
  }
  $('made').textContent = `Made by ctacct on ${day(data.generated, 'UTC')}, ${clock(data.generated, 'UTC')} UTC, ` +
    `out of PostgreSQL ${data.asked.server}. ` +
    `Times are of ${isUtc ? 'UTC' : local}. SI units: 1 kB is 1000 bytes.`;

  if (kEmpty) {
    const notice = $('notice');
    const filtered = $('filters').childElementCount > 0 ? ' that passes the filters' : '';
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

  const pointText = (ms) => `a point is ${round(duration(ms))}`;
  const byEnd = new Map(data.total.points.map((point) => [point[0], point]));
  const {width} = data.total;
  const totalRows = grid(data.total).map((end) => {
    const point = byEnd.get(end);
    if (point) return {x: center(data.total, end), point};
    return {x: center(data.total, end), point: unknown(beginOf(data.total, end), end) ? null : [end, width / 1000, 0, 0, 0, 0, 0, 0, 0]};
  });
  const rowsOf = (...values) => totalRows.map(({x, point}) => [x, ...values.map((value) => point && value(point))]);
  const direction = (unit) => [{name: 'sent', color: 'sent', unit}, {name: 'replies', color: 'replies', unit}];
  chart('bits', 'Throughput', direction(bits), rowsOf((p) => p[2] * 8 / p[1], (p) => p[3] * 8 / p[1]), width,
        {axis: bits, rangeSelector: true, begins: data.total.begins, note: pointText(width) + (regions.length > 0 ? '; gaps are shaded' : '')});
  const perSecond = (value) => `${count(value)}/s`;
  chart('packets', 'Packets', direction(perSecond), rowsOf((p) => p[4] / p[1], (p) => p[5] / p[1]), width,
        {axis: perSecond, begins: data.total.begins});
  if (data.total.open) {
    chart('connections', 'Connections', [{name: 'open', color: 'c4', unit: count}, {name: 'closed per second', color: 'c2', unit: perSecond}],
          rowsOf((p) => p[8] ?? 0, (p) => p[6] / p[1]), width,
          {axis: count, begins: data.total.begins});
  } else {
    chart('connections', 'Connections', [{name: 'closed', color: 'c2', unit: perSecond}], rowsOf((p) => p[6] / p[1]), width,
          {axis: perSecond, begins: data.total.begins});
  }
  for (const [id, title] of [['origins', 'Origins'], ['destinations', 'Destinations'], ['ports', 'Protocols and ports']]) {
    const source = data[id];
    const ends = grid(source);
    const rowOf = new Map(ends.map((end, i) => [end, i]));
    const places = Math.min(source.keys.length, kSeriesMax);
    const hasRest = source.keys.length > kSeriesMax || source.others > 0;
    const rates = ends.map((end) => [center(source, end), ...new Array(places + (hasRest ? 1 : 0)).fill(
      unknown(beginOf(source, end), end) ? null : 0)]);
    for (const [end, seconds, place, sent, replies] of source.points) {
      const row = rates[rowOf.get(end)];
      if (row) row[1 + Math.min(place, places)] += (sent + replies) * 8 / seconds;
    }
    const series = source.keys.slice(0, places).map((name, i) => ({name, color: `c${i}`, unit: bits}));
    if (hasRest) series.push({name: 'all others', color: 'rest', unit: bits});
    chart(id, title, series, rates, source.width, {axis: bits, stacked: true, begins: source.begins, note: `both ways; ${pointText(source.width)}`});
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
  document.documentElement.dataset.ready = Object.keys(drawn).join(' ');
})();
