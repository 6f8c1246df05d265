// TLS 1.3 by a pre-shared key: both ends prove that they hold the cluster's key before the first byte of anything,
// with fresh keys for every connection (psk_dhe_ke). There are no certificates, and none is believed.

import type { TLSSocket, TlsOptions } from 'node:tls';
import type { ClusterKey } from '../cluster-key.ts';

/** Sent in the clear: says which derivation of the key is meant, nothing of the key. */
const PSK_IDENTITY = 'holdfast-control-1';

/** The one suite of TLS 1.3 that OpenSSL gives to keys from a callback. */
const COMMON = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256' } as const;

export function serverTls(key: ClusterKey): TlsOptions {
  const psk = key.derive('control');
  return {
    ...COMMON,
    pskCallback: (_socket: TLSSocket, identity: string) => (identity === PSK_IDENTITY ? psk : null),
  };
}

/** For http2.connect: it takes the options of tls.connect. */
export function clientTls(key: ClusterKey) {
  const psk = key.derive('control');
  return {
    ...COMMON,
    pskCallback: () => ({ psk, identity: PSK_IDENTITY }),
    // Asked only of ends that show a certificate instead of the key: none is good enough, whoever signed it.
    ca: [],
    rejectUnauthorized: true,
    checkServerIdentity: () => new Error('the other end shows a certificate instead of the cluster key'),
  };
}
