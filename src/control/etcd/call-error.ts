// What can become of a call to etcd, sorted by what it means for the caller. Knows gRPC's statuses and etcd's
// texts; everything else speaks of kinds.

import { type ServiceError, status } from '@grpc/grpc-js';
import { HoldfastError } from '../../core/errors.ts';

export type CallErrorKind =
  | 'unreachable' // no connection: the request has not left
  | 'unknown' // the request may have left, and no answer says what became of it
  | 'badToken' // etcd did not know our token; nothing was done
  | 'refused'; // etcd answered, and did nothing

export class EtcdCallError extends Error {
  readonly kind: CallErrorKind;
  readonly status: status;

  constructor(kind: CallErrorKind, code: status, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.status = code;
  }
}

/** These say by themselves that the request was not carried out, whoever on the way answered so. */
const REFUSALS: ReadonlySet<status> = new Set([
  status.UNAUTHENTICATED,
  status.PERMISSION_DENIED,
  status.UNIMPLEMENTED,
]);
/** These do if etcd itself answered; grpc-js uses some of them for broken connections, too. */
const REFUSALS_BY_ETCD: ReadonlySet<status> = new Set([
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.FAILED_PRECONDITION,
  status.RESOURCE_EXHAUSTED,
  status.OUT_OF_RANGE,
]);

/** The kind of an error that ended a call which had been sent. Unless etcd itself refused it: unknown. */
export function callError(error: ServiceError): EtcdCallError {
  return new EtcdCallError(kindOf(error), error.code, error.details || error.message, error);
}

function kindOf({ code, details }: ServiceError): CallErrorKind {
  if (isTokenProblem(details)) return 'badToken';
  if (REFUSALS.has(code)) return 'refused';
  return REFUSALS_BY_ETCD.has(code) && /^(etcdserver|auth|lease)/.test(details) ? 'refused' : 'unknown';
}

/** A token that has run out, that a restarted server forgot, or that is older than the last change of users. */
export function isTokenProblem(text: string): boolean {
  return /invalid auth token|revision of auth store is old/.test(text);
}

/** For people, with the next step; `endpoints` as they were configured. */
export function holdfastErrorOf(error: unknown, endpoints: string): unknown {
  if (!(error instanceof EtcdCallError)) return error;
  const at = `etcd at ${endpoints}`;
  const make = (code: ConstructorParameters<typeof HoldfastError>[0], text: string): HoldfastError =>
    new HoldfastError(code, text, { cause: error });
  switch (error.kind) {
    case 'unreachable':
      return make('UNAVAILABLE', `${at} cannot be reached (${error.message}).${remedyOf(error.message)}`);
    case 'unknown':
      return error.status === status.DEADLINE_EXCEEDED
        ? make('TIMEOUT', `${at} did not answer in time (${error.message}): look whether it has a leader.`)
        : make('UNAVAILABLE', `${at} did not answer (${error.message}): try again.`);
    case 'badToken':
      return make('UNAVAILABLE', `${at} does not take the token that it gave us: try again.`);
    case 'refused':
      break;
  }
  if (error.status === status.OUT_OF_RANGE) return make('OUT_OF_RANGE', `${at}: ${error.message}`);
  if (error.status === status.NOT_FOUND) return make('NOT_FOUND', `${at}: ${error.message}`);
  if (error.status === status.RESOURCE_EXHAUSTED) {
    return /space/.test(error.message)
      ? make(
          'NO_SPACE',
          `${at} is full: compact and defragment it, then clear its alarm (etcdctl alarm disarm).`,
        )
      : make('BUSY', `${at} is overloaded (${error.message}): try again.`);
  }
  if (/authentication failed/.test(error.message)) {
    return make(
      'INVALID',
      `${at} does not accept this user and password: check --store-user and the file given by --store-password-file.`,
    );
  }
  if (/user name is empty/.test(error.message)) {
    return make('INVALID', `${at} asks who we are: give --store-user and --store-password-file.`);
  }
  if (/permission denied/.test(error.message)) {
    return make(
      'INVALID',
      `${at} does not let this user in: grant it a role that reads and writes everything below the store's prefix (etcdctl role grant-permission ROLE readwrite PREFIX --prefix=true).`,
    );
  }
  return make('INVALID', `${at} refused a request: ${error.message}`);
}

function remedyOf(text: string): string {
  if (/alert/.test(text)) {
    return ' It refuses us: check the client certificate (--store-cert, --store-key).';
  }
  if (/certificate|self.signed|issuer|altname/i.test(text)) {
    return ' Check that --store-ca is the authority that signed its certificate, and that the certificate names this host.';
  }
  return ' Check that it runs, that --store names its client port, and whether it wants TLS (--store-ca).';
}
