# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_gatepost_global_optspecs
    string join \n h/help V/version
end

function __fish_gatepost_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_gatepost_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_gatepost_using_subcommand
    set -l cmd (__fish_gatepost_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c gatepost -n "__fish_gatepost_needs_command" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_needs_command" -s V -l version -d 'Print version'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "run" -d 'Run the gateway until SIGTERM or SIGINT'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "check" -d 'Check a configuration: nothing is opened, nothing is started'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "demo" -d 'Show a simulated board and light on MQTT'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "doctor" -d 'Find out what is wrong, and what to do'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "ports" -d 'List serial ports, and who has each open'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "pub" -d 'Publish messages, as mosquitto_pub does'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "sub" -d 'Subscribe and print messages, as mosquitto_sub does'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "passwd" -d 'Add a user to a password file, change its password or delete it'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "route" -d 'Show what a frame would publish, or what bytes a message would write'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "status" -d 'Show what the running gateway does: devices, clients, counters'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "top" -d 'Watch the running gateway: devices, rates, clients and queues, on the whole terminal'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "monitor" -d 'Show the frames of a device as they come and go, and what the rules make of them'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "send" -d 'Write one frame to a device of the running gateway'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "release" -d 'Close a device and leave it alone, so that another program can have it, for flashing'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "acquire" -d 'Take a device back that was released'
complete -c gatepost -n "__fish_gatepost_needs_command" -f -a "reload" -d 'Let the gateway apply its configuration as it is now'
complete -c gatepost -n "__fish_gatepost_using_subcommand run" -s c -l config -d 'The configuration file [default: /etc/gatepost/gatepost.toml if it exists]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand run" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand check" -s c -l config -d 'The configuration [default: /etc/gatepost/gatepost.toml; without that file a local-only broker]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand check" -l print -d 'Print the whole effective configuration as TOML, secrets masked'
complete -c gatepost -n "__fish_gatepost_using_subcommand check" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand demo" -l seconds -d 'End after so many seconds [default: at Ctrl-C]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand demo" -l port -d 'Port of the broker [default: 1883, or any free one]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gatepost -n "__fish_gatepost_using_subcommand doctor" -s c -l config -d 'The configuration [default: /etc/gatepost/gatepost.toml if it exists]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand doctor" -l probe -d 'Listen to the serial ports of the configuration, or to PORT alone (a path or usb:VVVV:PPPP[:SERIAL])' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand doctor" -l seconds -d 'With --probe: listen so many seconds at each speed' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand doctor" -l json -d 'Print JSON'
complete -c gatepost -n "__fish_gatepost_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand ports" -l json -d 'Print JSON'
complete -c gatepost -n "__fish_gatepost_using_subcommand ports" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s t -l topic -d 'Topic to publish to' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s m -l message -d 'The payload' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s f -l file -d 'The payload is the content of this file' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l repeat -d 'Publish the message so many times' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l repeat-delay -d 'With --repeat, seconds between delivery of one and sending the next; 0.5 is fine' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s h -l host -d 'Host to connect to [default: localhost]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s p -l port -d 'Port to connect to [default: 1883, with TLS 8883]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s L -l url -d 'All in one: mqtt[s]://[user[:password]@]host[:port][/topic]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s u -l username -d 'User name' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s P -l pw -d 'Password; visible to others on this machine while the command runs' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s i -l id -d 'Client id [default: the broker chooses]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s I -l id-prefix -d 'Client id is this and the process id' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s q -l qos -d 'Quality of service: 0, 1 or 2' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s k -l keepalive -d 'Seconds between signs of life, 5 to 65535' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s x -l session-expiry-interval -d 'MQTT 5: seconds the session is kept; -1 for ever [default: 0, with -c for ever]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s V -l protocol-version -d 'MQTT version: mqttv311 (311) or mqttv5 (5)' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l cafile -d 'PEM file with the certificates to trust [default: those of the system]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l cert -d 'PEM file with this client\'s certificate' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l key -d 'PEM file with its key' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l will-topic -d 'Topic of the will, which the broker publishes when this client is lost' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l will-payload -d 'Payload of the will [default: nothing]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l will-qos -d 'Quality of service of the will' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s l -l stdin-line -d 'Each line of standard input is a message'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s s -l stdin-file -d 'All of standard input is one message'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s n -l null-message -d 'The payload is empty; with -r it clears the retained message'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s r -l retain -d 'The broker keeps the message for those who subscribe later'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s c -l disable-clean-session -d 'Keep the session on the broker after disconnecting; needs an id'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -s d -l debug -d 'Print each packet that is sent or received'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l quiet -d 'Do not print run-time errors'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l insecure -d 'Do not check that the certificate is for this host'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l will-retain -d 'The will is a retained message'
complete -c gatepost -n "__fish_gatepost_using_subcommand pub" -l help -d 'Print this help'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s t -l topic -d 'Topic filter to subscribe to; may be repeated' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s T -l filter-out -d 'Do not print topics that match this filter; may be repeated' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s F -d 'Print in this format: %t topic, %p payload, %j JSON, %I time, @H:@M:@S …, as in `man mosquitto_sub`' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s C -d 'End after so many messages' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s W -d 'End after so many seconds' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s h -l host -d 'Host to connect to [default: localhost]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s p -l port -d 'Port to connect to [default: 1883, with TLS 8883]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s L -l url -d 'All in one: mqtt[s]://[user[:password]@]host[:port][/topic]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s u -l username -d 'User name' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s P -l pw -d 'Password; visible to others on this machine while the command runs' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s i -l id -d 'Client id [default: the broker chooses]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s I -l id-prefix -d 'Client id is this and the process id' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s q -l qos -d 'Quality of service: 0, 1 or 2' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s k -l keepalive -d 'Seconds between signs of life, 5 to 65535' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s x -l session-expiry-interval -d 'MQTT 5: seconds the session is kept; -1 for ever [default: 0, with -c for ever]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s V -l protocol-version -d 'MQTT version: mqttv311 (311) or mqttv5 (5)' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l cafile -d 'PEM file with the certificates to trust [default: those of the system]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l cert -d 'PEM file with this client\'s certificate' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l key -d 'PEM file with its key' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l will-topic -d 'Topic of the will, which the broker publishes when this client is lost' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l will-payload -d 'Payload of the will [default: nothing]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l will-qos -d 'Quality of service of the will' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s v -l verbose -d 'Print "topic payload"'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s N -d 'Print no line end after a message'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s R -d 'Print no retained messages'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l retained-only -d 'Print only retained messages, and end at the first other one'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s E -d 'End as soon as the broker has acknowledged the subscriptions'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s c -l disable-clean-session -d 'Keep the session on the broker after disconnecting; needs an id'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -s d -l debug -d 'Print each packet that is sent or received'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l quiet -d 'Do not print run-time errors'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l insecure -d 'Do not check that the certificate is for this host'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l will-retain -d 'The will is a retained message'
complete -c gatepost -n "__fish_gatepost_using_subcommand sub" -l help -d 'Print this help'
complete -c gatepost -n "__fish_gatepost_using_subcommand passwd" -s D -l delete -d 'Delete the user'
complete -c gatepost -n "__fish_gatepost_using_subcommand passwd" -s b -l batch -d 'Do not ask: the password is one line on standard input'
complete -c gatepost -n "__fish_gatepost_using_subcommand passwd" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand route" -s c -l config -d 'The configuration [default: /etc/gatepost/gatepost.toml]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand route" -l device -d 'The device; with --topic every device when left out' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand route" -l peer -d 'The frame\'s sender, for {peer} and {peer_ip}: 192.168.1.7:51234 or [fe80::1]:51234' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand route" -l topic -d 'Take what follows as payloads of messages on this topic' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand route" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand status" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand status" -l json -d 'Print all of it as JSON'
complete -c gatepost -n "__fish_gatepost_using_subcommand status" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand top" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand top" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand monitor" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand monitor" -l hex -d 'Show frames and messages as hexadecimal digits, too'
complete -c gatepost -n "__fish_gatepost_using_subcommand monitor" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand send" -l peer -d 'Of a tcp_server: only to this connection, by its {peer} [default: to all]' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand send" -l timeout -d 'How long to wait; the frame stays in the queue' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand send" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand send" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand release" -l for -d 'Take it back after so long' -r
complete -c gatepost -n "__fish_gatepost_using_subcommand release" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand release" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand acquire" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand acquire" -s h -l help -d 'Print help'
complete -c gatepost -n "__fish_gatepost_using_subcommand reload" -l socket -d 'The gateway\'s control socket [default: $RUNTIME_DIRECTORY/control.sock, /run/gatepost/control.sock for root, $XDG_RUNTIME_DIR/gatepost/control.sock, else that of root\'s gateway]' -r -F
complete -c gatepost -n "__fish_gatepost_using_subcommand reload" -s h -l help -d 'Print help'
