// Sizes everybody shares. All sizes are numbers of bytes below 2^53.

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** The unit of addressing and alignment inside the data plane. */
export const BLOCK_BYTES = 4 * KIB;
/** The unit of the intent log: one mark covers one extent. */
export const EXTENT_BYTES = 4 * MIB;
/** The unit of the generation table: one epoch stamp covers one generation block. */
export const GENERATION_BLOCK_BYTES = 64 * KIB;
export const GENERATION_BLOCKS_PER_EXTENT = EXTENT_BYTES / GENERATION_BLOCK_BYTES;

export const MIN_VOLUME_BYTES = 1024 * KIB;
export const MAX_VOLUME_BYTES = 64 * TIB;

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
