// The one secret of a cluster: every daemon holds it, and proves so to the others before the first byte of
// anything. Read from a file that nobody else can read; the bytes never leave this module: what uses them gets a
// key of its own, derived for one purpose, so that no two protocols ever share one.

import { hkdfSync, randomBytes } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { errorText, HoldfastError } from '../core/errors.ts';
import { hasErrno } from '../dataplane/durable-files.ts';

const MIN_KEY_BYTES = 32;
const MAX_FILE_BYTES = 4096;
const NEWLINE = 0x0a;

export class ClusterKey {
  readonly #bytes: Buffer;

  /** INVALID when the file is missing, open to others, somebody else's, or holds no key; it names what to type. */
  static async read(path: string): Promise<ClusterKey> {
    return new ClusterKey(parseKey(path, await readSecret(path)));
  }

  /** `bytes`: 32 or more. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** 32 bytes that only holders of the cluster's key know, and that tell nothing of the key. */
  derive(purpose: 'control' | 'peers'): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#bytes, '', `holdfast ${purpose} 1`, 32));
  }
}

/** For a daemon that was given none: nobody else holds it. */
export function drawClusterKey(): ClusterKey {
  return new ClusterKey(randomBytes(MIN_KEY_BYTES));
}

/** A new key as text: base64 of 32 random bytes, and a newline. */
export function newKeyText(): string {
  return `${randomBytes(MIN_KEY_BYTES).toString('base64')}\n`;
}

/** A new key in a new file, mode 0600, durable when it resolves. ALREADY_EXISTS: a key is never overwritten. */
export async function createKeyFile(path: string): Promise<void> {
  let file: FileHandle;
  try {
    file = await open(path, 'wx', 0o600);
  } catch (error) {
    if (hasErrno(error, 'EEXIST')) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `${path} is there already and is left as it is: a cluster whose key is lost cannot talk. Name another file.`,
      );
    }
    throw new HoldfastError('IO', `the key cannot be written: ${errorText(error)}`, { cause: error });
  }
  try {
    // The umask may have taken the owner's own rights.
    await file.chmod(0o600);
    await file.writeFile(newKeyText());
    await file.sync();
  } finally {
    await file.close();
  }
}

async function readSecret(path: string): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    const remedy = hasErrno(error, 'ENOENT')
      ? `: copy the cluster's key there, or make the first one with "holdfast cluster keygen ${path}"`
      : '';
    throw new HoldfastError('INVALID', `--cluster-key: ${errorText(error)}${remedy}`, { cause: error });
  }
  try {
    const { mode, uid, size } = await file.stat();
    const own = process.geteuid?.() ?? uid;
    if ((mode & 0o170000) !== 0o100000 || size > MAX_FILE_BYTES) {
      throw new HoldfastError('INVALID', `--cluster-key: ${path} is no file with a key`);
    }
    // Root can read everything as it is.
    if (uid !== own && uid !== 0) {
      throw new HoldfastError(
        'INVALID',
        `--cluster-key: ${path} belongs to user ${uid}, who could change it: type "chown ${own} ${path}"`,
      );
    }
    if ((mode & 0o077) !== 0) {
      const open = (mode & 0o777).toString(8).padStart(4, '0');
      throw new HoldfastError(
        'INVALID',
        `--cluster-key: ${path} has mode ${open}, so others can read or change it: type "chmod 600 ${path}"`,
      );
    }
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/** Hex and base64 are read as such where they hold enough; everything else is the key itself. */
function parseKey(path: string, content: Buffer): Buffer {
  const line = content.at(-1) === NEWLINE ? content.subarray(0, -1) : content;
  const text = line.toString('latin1').trim();
  if (/^([0-9a-fA-F]{2})+$/.test(text) && text.length / 2 >= MIN_KEY_BYTES) return Buffer.from(text, 'hex');
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(text) && text.length % 4 === 0) {
    const decoded = Buffer.from(text, 'base64');
    if (decoded.length >= MIN_KEY_BYTES) return decoded;
  }
  if (line.length >= MIN_KEY_BYTES) return line;
  // Of 32 random bytes the last one may look like a newline.
  const isText = /^[\x20-\x7e]*$/.test(text);
  if (!isText && content.length >= MIN_KEY_BYTES) return content;
  throw new HoldfastError(
    'INVALID',
    `--cluster-key: ${path} holds ${line.length} bytes, and a key has ${MIN_KEY_BYTES} or more, raw, in hex or in ` +
      'base64: "holdfast cluster keygen" makes one',
  );
}
