package attribute

import "encoding/binary"

// AppendKey appends bytes that are the same for two values only where the values are the same in kind and content. They end where they
// end: nothing that follows can be taken for a part of them.
func (v Value) AppendKey(dst []byte) []byte {
	dst = append(dst, byte(v.kind))
	switch v.kind {
	case String, Email, DNSName, URI, IP:
		dst = append(binary.AppendUvarint(dst, uint64(len(v.text))), v.text...)
	case Int64, Double, Bool, Timestamp, Duration:
		dst = binary.LittleEndian.AppendUint64(dst, v.bits)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(v.nanos)) //nolint:gosec // the same bits
	case Unknown:
	}
	return dst
}
