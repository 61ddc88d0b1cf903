# Opens TCP connections and keeps them open in a background process. Each line of the input has a source
# address or `-`, a target and a port. The argument says for how many seconds the connections stay open.
# For each connection the program prints a line with its own address and port, or `-` if it could not be
# opened; then it prints the number of the background process.
# It is Perl, because shipped images have Perl (every Debian has it) but no python3.
use Socket qw(inet_pton inet_ntop pack_sockaddr_in pack_sockaddr_in6 unpack_sockaddr_in unpack_sockaddr_in6 AF_INET AF_INET6 SOCK_STREAM);

my $connect_seconds = 5;
my @held;
$SIG{ALRM} = sub { };    # ends a connect() that takes too long

sub opened {
    my ($source, $target, $port) = @_;
    my $six = $target =~ /:/;
    my $family = $six ? AF_INET6 : AF_INET;
    my $end = $six ? \&pack_sockaddr_in6 : \&pack_sockaddr_in;
    socket(my $socket, $family, SOCK_STREAM, 0) or return;
    $source eq '-' or bind($socket, $end->(0, inet_pton($family, $source))) or return;
    alarm $connect_seconds;
    my $done = connect($socket, $end->($port, inet_pton($family, $target)));
    alarm 0;
    return unless $done;
    my ($own_port, $own) = $six ? unpack_sockaddr_in6(getsockname $socket) : unpack_sockaddr_in(getsockname $socket);
    push @held, $socket;
    return inet_ntop($family, $own) . " $own_port";
}

$| = 1;
while (my $line = <STDIN>) {
    print opened(split ' ', $line) || '-', "\n";
}
defined(my $child = fork) or die "$!\n";
if ($child) {
    print "pid $child\n";
}
else {
    # The caller waits until all copies of the output are closed, so the child closes its own.
    open($_, '+<', '/dev/null') for *STDIN, *STDOUT, *STDERR;
    sleep $ARGV[0];
}
