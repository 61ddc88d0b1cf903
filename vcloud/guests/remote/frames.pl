# Sends Ethernet frames. Each line of the input has the MAC address of the card that sends, and the frame in
# hexadecimal. It is Perl, because shipped images have Perl (every Debian has it) but no python3.
sub line_of {
    open(my $file, '<', shift) or die "$!\n";
    my $line = <$file>;
    chomp $line;
    return $line;
}

while (my $line = <STDIN>) {
    my ($mac, $frame) = split ' ', $line;
    my ($card) = grep { line_of($_) eq $mac } glob('/sys/class/net/*/address');
    die "no card has the address $mac\n" unless $card;
    $card =~ s/address$/ifindex/;
    my $to = pack('S n i S C C a8', 17, 0x0800, line_of($card), 0, 0, 6, '');    # struct sockaddr_ll
    socket(my $raw, 17, 3, 0) or die "$!\n";                                              # AF_PACKET, SOCK_RAW
    defined(send($raw, pack('H*', $frame), 0, $to)) or die "$!\n";
}
