// The history in a file, one event a line, so that it can be judged again after the process that saw it.
//
//   node test/support/history-journal.ts FILE      replays it and prints the complaints

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import {
  type HistoryEvent,
  type HistoryOptions,
  type Read,
  SectorHistory,
  type Write,
} from './sector-history.ts';

const BUFFERED_LINES = 1000;

/** `SectorHistory`'s onEvent. What is not closed lacks its last lines. */
export class HistoryJournal {
  readonly #fd: number;
  #lines: string[] = [];

  constructor(path: string) {
    this.#fd = openSync(path, 'wx');
  }

  readonly append = (event: HistoryEvent): void => {
    this.#lines.push(JSON.stringify([Math.round(performance.now()), ...event]));
    if (this.#lines.length >= BUFFERED_LINES) this.#write();
  };

  close(): void {
    this.#write();
    closeSync(this.#fd);
  }

  #write(): void {
    if (this.#lines.length > 0) writeSync(this.#fd, `${this.#lines.join('\n')}\n`);
    this.#lines = [];
  }
}

export function replayJournal(path: string, options: HistoryOptions = {}): SectorHistory {
  const history = new SectorHistory(options);
  const writes = new Map<number, Write>();
  const reads = new Map<number, Read>();
  const known = <T>(found: T | undefined): T => {
    if (found === undefined) throw new Error(`${path} answers something that was not asked`);
    return found;
  };
  const lines = readFileSync(path, 'utf8').split('\n');
  for (const line of lines.filter((text) => text !== '')) {
    const [, ...event] = JSON.parse(line) as [number, ...HistoryEvent];
    switch (event[0]) {
      case 'writeAsked': {
        const write = history.writeAsked(event[1], event[2], event[3], event[4]);
        writes.set(write.id, write);
        break;
      }
      case 'writeAcknowledged':
        history.writeAcknowledged(known(writes.get(event[1])), event[2]);
        break;
      case 'writeFailed':
        history.writeFailed(known(writes.get(event[1])));
        break;
      case 'readAsked': {
        const read = history.readAsked(event[1]);
        reads.set(read.askedAt, read);
        break;
      }
      case 'readAnswered':
        history.readAnswered(known(reads.get(event[1])), event[2]);
        break;
      case 'readDropped':
        history.readDropped(known(reads.get(event[1])));
        break;
      case 'flushAsked':
        history.flushAsked();
        break;
      case 'flushAnswered':
        history.flushAnswered(event[1]);
        break;
      case 'writerFenced':
        history.writerFenced(event[1]);
        break;
      case 'powerCut':
        history.powerCut();
        break;
      default:
        event satisfies never;
    }
  }
  return history;
}

const [, script, file] = process.argv;
if (import.meta.filename === script && file !== undefined) {
  const { complaints } = replayJournal(file, { expectsPowerCuts: true });
  for (const { text } of complaints) console.log(text);
  console.log(`${complaints.length} complaints`);
  process.exitCode = complaints.length === 0 ? 0 : 1;
}
