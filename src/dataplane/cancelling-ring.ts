// A ring as under a kernel that has no worker for what it cannot do at once (isNotBegun): tests only.

import { ECANCELED, Ring } from './ring.ts';

/** Above every tag. */
const CANCELLED = 1 << 30;
const ONE_IN = 6;

/** Of the entries of files one in six is never begun, in an order that looks like chance and is always the same. */
export class CancellingRing extends Ring {
  #state = 1;

  override read(...entry: Parameters<Ring['read']>): void {
    if (!this.#cancels(entry[5], entry[6])) super.read(...entry);
  }

  override write(...entry: Parameters<Ring['write']>): void {
    if (!this.#cancels(entry[5], entry[6])) super.write(...entry);
  }

  override fdatasync(...entry: Parameters<Ring['fdatasync']>): void {
    if (!this.#cancels(entry[1], entry[2])) super.fdatasync(...entry);
  }

  override fallocate(...entry: Parameters<Ring['fallocate']>): void {
    if (!this.#cancels(entry[5], entry[6])) super.fallocate(...entry);
  }

  override next(): boolean {
    if (!super.next()) return false;
    if ((this.tag & CANCELLED) === 0) return true;
    this.tag &= ~CANCELLED;
    this.result = -ECANCELED;
    return true;
  }

  #cancels(index: number, tag: number): boolean {
    this.#state = (Math.imul(this.#state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    if ((this.#state >>> 16) % ONE_IN !== 0) return false;
    this.nop(index, tag | CANCELLED);
    return true;
  }
}
