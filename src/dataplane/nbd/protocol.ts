// The numbers of the NBD protocol, under the names of its document (NetworkBlockDevice/nbd, doc/proto.md).
// Everything on the wire is big-endian. 64-bit magics are given as two 32-bit halves, so that nothing here
// is a BigInt. No logic: the state machines are handshake.ts and transmission.ts.

// ---- handshake, server to client: NBDMAGIC, IHAVEOPT, handshake flags (u16)
export const NBDMAGIC_HIGH = 0x4e42444d;
export const NBDMAGIC_LOW = 0x41474943;
export const IHAVEOPT_HIGH = 0x49484156;
export const IHAVEOPT_LOW = 0x454f5054;
export const SERVER_HELLO_BYTES = 18;
/** The padding after EXPORT_NAME's answer for clients that did not set NBD_FLAG_C_NO_ZEROES. */
export const EXPORT_NAME_ZEROES = 124;

// ---- handshake flags (server, u16) and client flags (u32): the same bits answer each other
export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_NO_ZEROES = 1 << 1;
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_C_NO_ZEROES = 1 << 1;
export const CLIENT_FLAGS_BYTES = 4;

// ---- options: IHAVEOPT (u64), option (u32), length (u32), data
export const OPTION_HEADER_BYTES = 16;
export const NBD_OPT_EXPORT_NAME = 1;
export const NBD_OPT_ABORT = 2;
export const NBD_OPT_LIST = 3;
export const NBD_OPT_STARTTLS = 5;
export const NBD_OPT_INFO = 6;
export const NBD_OPT_GO = 7;
export const NBD_OPT_STRUCTURED_REPLY = 8;
export const NBD_OPT_LIST_META_CONTEXT = 9;
export const NBD_OPT_SET_META_CONTEXT = 10;
export const NBD_OPT_EXTENDED_HEADERS = 11;

// ---- option replies: magic (u64), option (u32), reply type (u32), length (u32), data
export const NBD_REP_MAGIC_HIGH = 0x0003e889;
export const NBD_REP_MAGIC_LOW = 0x045565a9;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const NBD_REP_ACK = 1;
export const NBD_REP_SERVER = 2;
export const NBD_REP_INFO = 3;
export const NBD_REP_META_CONTEXT = 4;
/** Set in every error reply; the data is then a text for people. */
export const NBD_REP_FLAG_ERROR = 0x80000000;
export const NBD_REP_ERR_UNSUP = NBD_REP_FLAG_ERROR + 1;
export const NBD_REP_ERR_POLICY = NBD_REP_FLAG_ERROR + 2;
export const NBD_REP_ERR_INVALID = NBD_REP_FLAG_ERROR + 3;
export const NBD_REP_ERR_PLATFORM = NBD_REP_FLAG_ERROR + 4;
export const NBD_REP_ERR_TLS_REQD = NBD_REP_FLAG_ERROR + 5;
export const NBD_REP_ERR_UNKNOWN = NBD_REP_FLAG_ERROR + 6;
export const NBD_REP_ERR_SHUTDOWN = NBD_REP_FLAG_ERROR + 7;
export const NBD_REP_ERR_BLOCK_SIZE_REQD = NBD_REP_FLAG_ERROR + 8;
export const NBD_REP_ERR_TOO_BIG = NBD_REP_FLAG_ERROR + 9;
export const NBD_REP_ERR_EXT_HEADER_REQD = NBD_REP_FLAG_ERROR + 10;

// ---- what INFO and GO tell
export const NBD_INFO_EXPORT = 0;
export const NBD_INFO_NAME = 1;
export const NBD_INFO_DESCRIPTION = 2;
export const NBD_INFO_BLOCK_SIZE = 3;

/** No string of the protocol (export name, description, query, error text) is longer. */
export const MAX_STRING_BYTES = 4096;

// ---- transmission flags of an export (u16)
export const NBD_FLAG_HAS_FLAGS = 1 << 0;
export const NBD_FLAG_READ_ONLY = 1 << 1;
export const NBD_FLAG_SEND_FLUSH = 1 << 2;
export const NBD_FLAG_SEND_FUA = 1 << 3;
export const NBD_FLAG_ROTATIONAL = 1 << 4;
export const NBD_FLAG_SEND_TRIM = 1 << 5;
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
/** Only with structured replies. */
export const NBD_FLAG_SEND_DF = 1 << 7;
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
export const NBD_FLAG_SEND_RESIZE = 1 << 9;
export const NBD_FLAG_SEND_CACHE = 1 << 10;

// ---- requests: magic (u32), command flags (u16), type (u16), cookie (u64), offset (u64), length (u32), payload
export const NBD_REQUEST_MAGIC = 0x25609513;
export const REQUEST_HEADER_BYTES = 28;
export const NBD_CMD_READ = 0;
export const NBD_CMD_WRITE = 1;
export const NBD_CMD_DISC = 2;
export const NBD_CMD_FLUSH = 3;
export const NBD_CMD_TRIM = 4;
export const NBD_CMD_CACHE = 5;
export const NBD_CMD_WRITE_ZEROES = 6;
export const NBD_CMD_BLOCK_STATUS = 7;
export const NBD_CMD_RESIZE = 8;

export const NBD_CMD_FLAG_FUA = 1 << 0;
/** WRITE_ZEROES: the range must be allocated afterwards. */
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1;
/** READ: one content chunk. */
export const NBD_CMD_FLAG_DF = 1 << 2;
/** BLOCK_STATUS: one extent. */
export const NBD_CMD_FLAG_REQ_ONE = 1 << 3;

// ---- simple replies: magic (u32), error (u32), cookie (u64), data of a READ
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const SIMPLE_REPLY_BYTES = 16;

// ---- structured reply chunks: magic (u32), flags (u16), type (u16), cookie (u64), length (u32), payload
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const STRUCTURED_REPLY_HEADER_BYTES = 20;
export const NBD_REPLY_FLAG_DONE = 1 << 0;
export const NBD_REPLY_TYPE_NONE = 0;
/** offset (u64), data */
export const NBD_REPLY_TYPE_OFFSET_DATA = 1;
/** offset (u64), length of the hole (u32) */
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2;
/** context id (u32), then length (u32) and flags (u32) of each extent */
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5;
/** error (u32), length of the text (u16), text */
export const NBD_REPLY_TYPE_ERROR = (1 << 15) + 1;
/** error (u32), length of the text (u16), text, offset (u64) */
export const NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2;

// ---- metadata context base:allocation
export const BASE_ALLOCATION = 'base:allocation';
export const NBD_STATE_HOLE = 1 << 0;
export const NBD_STATE_ZERO = 1 << 1;

// ---- errors of replies. They look like errno on Linux and are defined by the protocol.
export const NBD_SUCCESS = 0;
export const NBD_EPERM = 1;
export const NBD_EIO = 5;
export const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
export const NBD_ENOSPC = 28;
export const NBD_EOVERFLOW = 75;
export const NBD_ENOTSUP = 95;
export const NBD_ESHUTDOWN = 108;
