"""The collector's CA is made once, kept safe, and never replaced behind anybody's back."""

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cvmprobe.errors import ConfigError
from cvmprobe.wire.authority import CertificateAuthority


def test_it_is_made_once_and_its_key_is_for_its_owner_alone(tmp_path):
    made = CertificateAuthority.load_or_create(tmp_path)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert CertificateAuthority.load_or_create(tmp_path).certificate_pem == made.certificate_pem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


def test_what_it_issues_chains_to_it_and_bears_all_names(tmp_path):
    authority = CertificateAuthority.load_or_create(tmp_path)
    certificate_pem, key_pem = authority.issue(["collector.cvmprobe.svc", "127.0.0.1", "::1"])
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_pem))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["collector.cvmprobe.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_start_that_was_killed_between_key_and_certificate_is_mended(tmp_path):
    (tmp_path / "ca.key").write_bytes(b"half a")
    (tmp_path / "ca.key.new").write_bytes(b"left over")
    authority = CertificateAuthority.load_or_create(tmp_path)
    assert CertificateAuthority.load_or_create(tmp_path).certificate_pem == authority.certificate_pem


def test_a_broken_or_foreign_pair_is_refused_and_kept(tmp_path):
    CertificateAuthority.load_or_create(tmp_path)
    (tmp_path / "other").mkdir()
    CertificateAuthority.load_or_create(tmp_path / "other")
    foreign = (tmp_path / "other" / "ca.key").read_bytes()
    for key, reason in ((foreign, "are no pair"), (b"junk", "cannot be read")):
        (tmp_path / "ca.key").write_bytes(key)
        with pytest.raises(ConfigError, match=f"{reason}.*restore or remove both files"):
            CertificateAuthority.load_or_create(tmp_path)
        assert (tmp_path / "ca.key").read_bytes() == key
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        CertificateAuthority.load_or_create(tmp_path)
