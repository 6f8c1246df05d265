// How sizes and times are typed and printed: `10GiB`, `250ms`. Parsers return undefined for what they do
// not understand; the caller names the option and the example.

import bytesIec from 'bytes-iec';
import prettyBytes from 'pretty-bytes';

const DURATION = /^(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)$/;
const UNIT_MS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/**
 * Bytes of `10GiB`, `10Gi` (Kubernetes' spelling), `1.5 TB` (powers of ten) or a plain number of bytes. Infinity: more
 * than numbers can tell apart.
 */
export function parseSize(text: string): number | undefined {
  const trimmed = text.trim();
  const spelled = /[kmgtpe]i?$/i.test(trimmed) ? `${trimmed}B` : trimmed;
  const sizeBytes = bytesIec.parse(spelled);
  if (sizeBytes === null || !Number.isFinite(sizeBytes) || sizeBytes < 0) return undefined;
  const rounded = Math.round(sizeBytes);
  return Number.isSafeInteger(rounded) ? rounded : Number.POSITIVE_INFINITY;
}

export function formatSize(sizeBytes: number): string {
  return prettyBytes(sizeBytes, { binary: true, maximumFractionDigits: 1 });
}

/** Milliseconds of `50us`, `250ms`, `30s`, `5m`, `24h`, `1d`. A unit is demanded: nobody guesses seconds right. */
export function parseDuration(text: string): number | undefined {
  const match = DURATION.exec(text.trim());
  if (match === null) return undefined;
  const micros = Math.round(Number(match[1]) * (UNIT_MS[match[2] ?? ''] ?? Number.NaN) * 1000);
  return micros / 1000;
}

export function formatDuration(durationMs: number): string {
  for (const unit of ['d', 'h', 'm', 's']) {
    const unitMs = UNIT_MS[unit] ?? 1;
    if (durationMs >= unitMs && durationMs % unitMs === 0) return `${durationMs / unitMs}${unit}`;
  }
  return `${durationMs}ms`;
}
