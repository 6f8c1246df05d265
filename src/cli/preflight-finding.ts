// What a look of preflight finds.

export interface Finding {
  /** problem: Holdfast does not work here; warning: it works less well, or not for everything. */
  readonly level: 'ok' | 'warning' | 'problem';
  readonly found: string;
  /** Empty when there is nothing to do. */
  readonly remedy: string;
}

/** Of the directory of a pool to be. */
export interface DirectoryFindings {
  readonly flushes: Finding;
  readonly room: Finding;
}

export const ok = (found: string): Finding => ({ level: 'ok', found, remedy: '' });
export const warning = (found: string, remedy: string): Finding => ({ level: 'warning', found, remedy });
export const problem = (found: string, remedy: string): Finding => ({ level: 'problem', found, remedy });
