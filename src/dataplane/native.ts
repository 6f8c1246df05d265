// The addon's interface and the only place that loads it. The addon is small and free of policy:
// every decision (sizes, flags, retries, deadlines) is made in TypeScript.
//
// Rules of the addon: arguments are checked and wrong use throws TypeError/RangeError; a failing
// system call throws NativeError (`code` like 'EBUSY', `errno` positive, `syscall`), except where a
// negative errno is returned as documented. Memory is mapped once per thread and is unmapped when
// the owner says so or the thread's environment ends; an unmapped ArrayBuffer is detached first,
// so that stale views have length 0 instead of pointing at freed memory.

import { createRequire } from 'node:module';
import { packageFile } from './package-files.ts';

/** What io_uring offers here. `errno` is 0 when a ring could be set up. */
export interface RingProbe {
  readonly errno: number;
  /** IORING_FEAT_* bits. */
  readonly features: number;
  /** IORING_SETUP_* bits of the best set of flags that worked. */
  readonly setupFlags: number;
  /** 1 at index n when opcode n is supported. */
  readonly opcodes: Uint8Array;
}

/** One io_uring, owned by the thread that created it; every other thread's use throws. */
export interface NativeRing {
  readonly fd: number;
  readonly setupFlags: number;
  readonly features: number;
  /** The shared submission/completion ring memory; offsets below are bytes into it. */
  readonly memory: ArrayBuffer;
  /** Submission entries, 64 bytes each. Index i of the array is always entry i. */
  readonly submissionEntries: ArrayBuffer;
  readonly submissionCount: number;
  readonly completionCount: number;
  readonly offsets: {
    readonly sqHead: number;
    readonly sqTail: number;
    readonly sqFlags: number;
    readonly sqDropped: number;
    readonly cqHead: number;
    readonly cqTail: number;
    readonly cqOverflow: number;
    readonly cqes: number;
  };
}

/** Anonymous, 2 MiB-aligned, zeroed memory that stays at `address` until freed. Not populated. */
export interface NativeMemory {
  readonly buffer: ArrayBuffer;
  /** User-space address of byte 0, below 2^47. */
  readonly address: number;
}

export interface NbdConnectOptions {
  /** Device number, or -1 for the first free one. */
  readonly index: number;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  /** NBD transmission flags (NBD_FLAG_*). */
  readonly serverFlags: number;
  /** 0: the kernel never times out a request. */
  readonly timeoutSeconds: number;
  readonly deadConnectionTimeoutSeconds: number;
  /** Checked by the kernel at every reconfigure (kernel 5.14 and newer). */
  readonly backendIdentifier: string;
  /** Copied before the call returns; the kernel keeps its own reference. The caller closes its descriptors when it likes. */
  readonly socketFds: readonly number[];
}

/** The request timeout stays as it is: naming it again would reset the queue's io_timeout. */
export interface NbdReconfigureOptions {
  readonly index: number;
  /** 0 leaves the size as it is. */
  readonly sizeBytes: number;
  readonly deadConnectionTimeoutSeconds: number;
  readonly backendIdentifier: string;
  readonly socketFds: readonly number[];
}

export interface Native {
  // ---- rings
  /** Tries flag sets from best to least (SINGLE_ISSUER|DEFER_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL|CQSIZE …). */
  probeRing(): RingProbe;
  createRing(submissionCount: number, completionCount: number): NativeRing;
  /**
   * Submits `submitCount` entries (the caller has already stored the new sq tail) and, when
   * `waitCount` > 0, returns only when at least that many completions are in the ring, a signal came,
   * or `timeoutMicros` (>= 0; -1: none) ran out. Polls for up to `spinMicros` before it sleeps; polling
   * makes no system call while the kernel has announced no work (IORING_SQ_TASKRUN).
   * Returns the number submitted, or a negative errno (-EINTR, -EBUSY, -ETIME are ordinary). Allocates nothing.
   */
  enter(
    ring: NativeRing,
    submitCount: number,
    waitCount: number,
    spinMicros: number,
    timeoutMicros: number,
  ): number;
  /**
   * Writes through the page cache, one after the other, in this one call. `entries` holds four numbers a write:
   * fd, offset in `memory`, length, file offset; the first is replaced by the bytes written or a negative errno.
   * Blocks when the kernel makes writers wait: then it returns the microseconds it took, else 0. Allocates nothing.
   */
  writeBatch(memory: Uint8Array, entries: Float64Array, count: number): number;
  /**
   * Reads what the page cache holds, one after the other, in this one call. Entries as of writeBatch; the first
   * number is replaced by the bytes read, fewer than asked or -EAGAIN where the disk would have to be asked.
   * Never waits for the disk. Allocates nothing.
   */
  readBatch(memory: Uint8Array, entries: Float64Array, count: number): void;
  /**
   * Sends without waiting. `entries` holds two numbers a send: fd, and the offset in `memory` of a struct msghdr;
   * the first is replaced by the bytes sent, perhaps fewer than asked, or a negative errno (-EAGAIN: the socket is
   * full). Allocates nothing.
   */
  sendBatch(memory: Uint8Array, entries: Float64Array, count: number): void;
  /**
   * Sends a header and bytes of a window (mapWindow) behind it, without waiting for the socket or the disk. `entries`
   * holds six numbers a send: fd, offset and length of the header in `memory`, window, offset and length in it. The
   * first is replaced by the bytes sent, perhaps fewer than asked; 0 when the page cache does not hold all of them (or
   * the file ends before); or a negative errno: -EAGAIN when the socket is full, or when an earlier send of this call
   * to the same socket left in part; -EFAULT when a page went away meanwhile and cannot be had. Allocates nothing.
   */
  sendMapped(memory: Uint8Array, entries: Float64Array, count: number): void;
  /** Stores CLOCK_BOOTTIME in milliseconds, with fractions, into target[0]. Allocates nothing. */
  readClock(target: Float64Array): void;
  /** Registers a sparse table of `count` fixed files, or updates one slot (fd -1 clears). */
  registerFiles(ring: NativeRing, count: number): void;
  updateFile(ring: NativeRing, slot: number, fd: number): void;
  closeRing(ring: NativeRing): void;

  // ---- memory
  createMemory(byteCount: number): NativeMemory;
  /** Maps the first `byteCount` bytes of a file, shared and writable (the in-flight window). */
  mapFile(fd: number, byteCount: number): NativeMemory;
  /**
   * Maps bytes [offset, offset+byteCount) of a file read-only into this thread's window `window` (0 to 15), for
   * sendMapped, in place of what was there. Multiples of 4096; the file may be shorter. Such pages are never locked.
   * Returns 0 or a negative errno.
   */
  mapWindow(window: number, fd: number, offset: number, byteCount: number): number;
  /** The file, its description and its locks are let go. An empty window is no error. */
  unmapWindow(window: number): void;
  /** Detaches the buffer and unmaps it. A second call does nothing. */
  freeMemory(memory: NativeMemory): void;
  /** CRC-32C (Castagnoli) of bytes [offset, offset+length) of `bytes`, continuing from `seed` (0 at the start). */
  crc32c(bytes: Uint8Array, offset: number, length: number, seed: number): number;

  /** The same as a signed number, which is never one on the heap. */
  crc32cSigned(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  /**
   * Seals `count` pieces of `length` bytes that begin at `offset`: SipHash-2-4 of each under `key` (16 bytes) is stored
   * in the 8 bytes behind it, and the next piece begins after those. Allocates nothing.
   */
  seal(key: Uint8Array, bytes: Uint8Array, offset: number, length: number, count: number): void;
  /** Whether the 8 bytes behind the piece are its seal. Allocates nothing. */
  isSealed(key: Uint8Array, bytes: Uint8Array, offset: number, length: number): boolean;

  // ---- descriptors. All are created close-on-exec.
  close(fd: number): void;
  /** A listening Unix stream socket; the path must not exist; `mode` is set before anyone can connect. */
  listenUnix(path: string, mode: number, backlog: number): number;
  /** Port 0 picks one; returns the fd and the port. */
  listenTcp(host: string, port: number, backlog: number): { fd: number; port: number };
  /** A TCP socket that is not connected yet, and the struct sockaddr to connect it to. */
  openTcp(host: string, port: number): { fd: number; address: Uint8Array };
  /** TCP_NODELAY, keep-alive and TCP_USER_TIMEOUT: a peer that is gone is noticed without sending anything. */
  setPeerOptions(
    fd: number,
    idleSeconds: number,
    intervalSeconds: number,
    probeCount: number,
    userTimeoutMs: number,
  ): void;
  /** The numeric address of the other end; empty when it has gone. */
  peerAddress(fd: number): string;
  /** A connected AF_UNIX stream pair with the given buffer sizes (0: default). */
  socketPair(bufferBytes: number): [number, number];
  /**
   * Another descriptor of the same connection, and makes the connection blocking, as rings want it: for one that
   * somebody else, Node, say, has accepted and closes on his side at once. A shutdown would be for both.
   */
  duplicateSocket(fd: number): number;
  setSocketBuffers(fd: number, bytes: number): void;
  setNoDelay(fd: number): void;
  /** SHUT_RDWR. A socket that is no longer connected is no error. */
  shutdownSocket(fd: number): void;
  /** False once either end was closed or shut down. */
  isSocketConnected(fd: number): boolean;
  eventFd(): number;
  /** Adds 1 to an eventfd: wakes the ring that reads it. Any thread. */
  signalEventFd(fd: number): void;
  /** flock(LOCK_EX|LOCK_NB): true when this open file description now holds the lock. */
  tryLock(fd: number): boolean;
  /** One step of SEEK_DATA/SEEK_HOLE from `offset`: the end of the run that starts there, and whether it holds data. */
  nextRun(fd: number, offset: number, endOffset: number): { endOffset: number; isData: boolean };
  /**
   * Whether SEEK_DATA finds any in the file. On one of libuv's threads; the descriptor stays open until it is told.
   */
  hasData(fd: number): Promise<boolean>;
  /**
   * Whether the whole range has blocks already, so that writing it takes no room: FIEMAP, with preallocated blocks and
   * without shared ones; where that is unsupported SEEK_DATA, which takes preallocated blocks for a hole. Never on a
   * file system that writes every block anew (btrfs without the No_COW attribute, bcachefs, ZFS, NILFS).
   */
  isAllocated(fd: number, offset: number, length: number): boolean;
  /** fstatfs: bytes available to unprivileged users and in all. */
  fileSystemSpace(fd: number): { availableBytes: number; totalBytes: number };

  // ---- the process
  /** PR_SET_IO_FLUSHER for the calling thread and all that it creates afterwards. Throws EPERM without CAP_SYS_RESOURCE. */
  setIoFlusher(on: boolean): void;
  /**
   * Pins, as they are touched, the program's code and every arena and file mapped from now on. Not V8's heap:
   * V8 returns pages with madvise, which the kernel refuses for locked ones, and then aborts.
   */
  lockMemory(): void;
  /** _exit: no handler runs, and no thread is waited for, as process.exit() would. */
  exitAtOnce(exitCode: number): never;
  /** CLOCK_BOOTTIME in milliseconds, with fractions. */
  bootTimeMs(): number;

  // ---- kernel NBD over generic netlink. Each call runs on a worker thread of its own; it may take as
  // long as the kernel takes, and rejects with TIMEOUT semantics only where the caller races it.
  /** Throws ENOENT-like NativeError when the kernel has no nbd (module not loaded). Resolves with the device index. */
  nbdConnect(options: NbdConnectOptions): Promise<number>;
  nbdReconfigure(options: NbdReconfigureOptions): Promise<void>;
  nbdDisconnect(index: number): Promise<void>;
  /** Which of the known devices have a configuration. index -1: all. */
  nbdStatus(index: number): Promise<{ index: number; connected: boolean }[]>;
}

export interface NativeError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
}

export function isNativeError(error: unknown, code?: string): error is NativeError {
  return (
    error instanceof Error &&
    typeof (error as Partial<NativeError>).code === 'string' &&
    typeof (error as Partial<NativeError>).errno === 'number' &&
    (code === undefined || (error as Partial<NativeError>).code === code)
  );
}

/** Loaded once per thread. HOLDFAST_ADDON names another build (the ASan one in CI). */
export const native: Native = createRequire(import.meta.url)(
  process.env['HOLDFAST_ADDON'] ?? packageFile('native/build/holdfast.node'),
) as Native;
