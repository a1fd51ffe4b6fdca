# Completion of `maasq` for bash: commands and options come from the program itself.
_maasq() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local typed="" word line words options candidates=""
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == -* ]] && break
        typed+="${typed:+ }$word"
    done
    case $previous in
    --labels | --input | --output | --refs) COMPREPLY=($(compgen -f -- "$current")) && return ;;
    --data) [[ $typed == up* || $typed == down* || $typed == doctor* ]] &&
        COMPREPLY=($(compgen -d -- "$current")) && return ;;
    esac
    while IFS= read -r line; do
        words=${line%%:*}
        options=${line#*:}
        if [[ "$typed " == "$words "* ]]; then
            candidates+=" $options"
        elif [[ $words == "${typed:+$typed }"* ]]; then
            word=${words#"${typed:+$typed }"}
            candidates+=" ${word%% *}"
        fi
    done < <(maasq help --words 2>/dev/null)
    COMPREPLY=($(compgen -W "$candidates" -- "$current"))
    [[ ${#COMPREPLY[@]} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$current"))
}
complete -F _maasq maasq
