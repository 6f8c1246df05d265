// Schemas of single values of the configuration. Each takes what a flag, a variable or a file's key holds
// and says, where it refuses, what would be right.

import { resolve } from 'node:path';
import { z } from 'zod';
import { didYouMean } from '../core/nearest.ts';
import { formatDuration, parseDuration, parseSize } from './values.ts';

export interface PoolOption {
  readonly name: string;
  readonly directory: string;
  /** undefined: direct where the file system takes O_DIRECT. */
  readonly ioMode: 'direct' | 'buffered' | undefined;
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** A text that `parse` turns into a value; what it throws becomes the message. */
export function typed<T>(parse: (text: string) => T): z.ZodType<T> {
  return z.union([z.string(), z.number().transform(String)]).transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
      return z.NEVER;
    }
  }) as unknown as z.ZodType<T>;
}

function path(): z.ZodType<string> {
  return typed((text) => {
    if (text === '') throw new Error('must not be empty');
    return resolve(text);
  });
}

export const directory = path();
export const filePath = path();

/** sockaddr_un holds 107 bytes; what listens beside it under a temporary name needs a few of them. */
const SOCKET_PATH_BYTES = 100;
export const socketPath = typed((text) => {
  const path = resolve(text);
  if (text === '' || Buffer.byteLength(path) > SOCKET_PATH_BYTES) {
    throw new Error(`must be a path of 1 to ${SOCKET_PATH_BYTES} bytes for a Unix socket`);
  }
  return path;
});

export const hostPort = typed((text): HostPort => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s]+)):(\d+)$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) throw new Error("must be HOST:PORT, like '127.0.0.1:9100'");
  return { host, port };
});

/** As `hostPort`; without a host the machine itself, and nobody else. */
export const listenAddress = typed((text): HostPort => {
  const parsed = hostPort.safeParse(/^:?\d+$/.test(text) ? `127.0.0.1:${text.replace(':', '')}` : text);
  if (!parsed.success) throw new Error("must be HOST:PORT or :PORT, like '10.0.0.1:7400'");
  return parsed.data;
});

/** As it is typed. */
export function formatHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

const LABEL = /^([A-Za-z0-9]([-A-Za-z0-9_./]{0,126}[A-Za-z0-9])?)=([\x20-\x7e]{0,256})$/;

export const labelMap = z
  .array(
    typed((text): readonly [string, string] => {
      const match = LABEL.exec(text);
      if (match === null) throw new Error("must be KEY=VALUE, like 'disk=ssd'");
      return [match[1] ?? '', match[3] ?? ''];
    }),
  )
  .transform((labels): Readonly<Record<string, string>> => Object.fromEntries(labels));

export type StoreOption =
  | { readonly kind: 'level' }
  /** HOST:PORT of each server. */
  | { readonly kind: 'etcd'; readonly endpoints: readonly string[] };

export const storeOption = typed((text): StoreOption => {
  if (text === 'level') return { kind: 'level' };
  const servers = /^etcd:\/\/(.+)$/.exec(text)?.[1]?.split(',');
  if (servers === undefined || !servers.every((server) => hostPort.safeParse(server).success)) {
    throw new Error("must be 'level' or 'etcd://HOST:PORT[,HOST:PORT…]'");
  }
  return { kind: 'etcd', endpoints: servers };
});

/** Printable, and room for keys below it. */
export const storePrefix = typed((text) => {
  if (!/^\/[\x21-\x7e]{1,200}$/.test(text)) {
    throw new Error("must begin with '/' and have 2 to 201 printable characters, like '/holdfast'");
  }
  return text;
});

export function duration(minimumMs: number, maximumMs: number): z.ZodType<number> {
  return typed((text) => {
    const durationMs = parseDuration(text);
    if (durationMs === undefined) throw new Error("must be a time with its unit, like '250ms' or '30s'");
    if (durationMs < minimumMs || durationMs > maximumMs) {
      throw new Error(`must be from ${formatDuration(minimumMs)} to ${formatDuration(maximumMs)}`);
    }
    return durationMs;
  });
}

export const size = typed((text) => {
  const sizeBytes = parseSize(text);
  if (sizeBytes === undefined) throw new Error("must be a size with its unit, like '10GiB'");
  if (!Number.isFinite(sizeBytes)) throw new Error('must be below 8 PiB');
  return sizeBytes;
});

export function number(minimum: number, maximum: number, kind: 'integer' | 'fraction'): z.ZodType<number> {
  return typed((text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= minimum && value <= maximum)) {
      throw new Error(`must be a number from ${minimum} to ${maximum}`);
    }
    if (kind === 'integer' && !Number.isInteger(value)) throw new Error('must be a whole number');
    return value;
  });
}

const POOL_NAME = /^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$/;

function parsePool(text: string): PoolOption {
  const [first = '', ...settings] = text.split(',');
  const equals = first.indexOf('=');
  const name = first.slice(0, equals);
  if (equals < 1 || equals === first.length - 1) throw new Error('must be NAME=DIR[,io=direct|buffered]');
  if (!POOL_NAME.test(name))
    throw new Error(`'${name}' is no pool name: small letters, digits, '-' and '.', at most 63`);
  let ioMode: PoolOption['ioMode'];
  for (const setting of settings) {
    const [key = '', value] = setting.split('=');
    if (key !== 'io') throw new Error(`unknown pool setting '${key}'.${didYouMean(key, ['io'])}`);
    if (value !== 'direct' && value !== 'buffered') throw new Error("io must be 'direct' or 'buffered'");
    ioMode = value;
  }
  return { name, directory: resolve(first.slice(equals + 1)), ioMode };
}

export const poolList = z.array(typed(parsePool)).superRefine((pools, context) => {
  for (const key of ['name', 'directory'] as const) {
    const seen = new Set<string>();
    for (const pool of pools) {
      if (seen.has(pool[key]))
        context.addIssue({ code: 'custom', message: `two pools with the same ${key} '${pool[key]}'` });
      seen.add(pool[key]);
    }
  }
});
